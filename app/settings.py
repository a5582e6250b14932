"""All configuration: one file (`tunegate.yaml`), and environment variables that override it, checked before the start.

Environment names are `TUNEGATE_` plus the path with double underscores (`TUNEGATE_SERVER__PORT=8080`); the names that
the platform world already uses work too: REDIS_URL, DATABASE_URL, OPENAI_API_KEY, OPENAI_BASE_URL, VLLM_URLS.
Every field says its unit in its name and its meaning in its description. Unknown fields are refused, with the line.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.auth.tokens import Issuer
from app.types import Pool, Price, Provider

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Url = Annotated[str, Field(pattern=r"^https?://[^\s/]+(/[^\s]*)?$")]
Source = Annotated[str, Field(pattern=r"^(https?://[^\s/]+(/[^\s]*)?|dns://[^\s/:]+:\d+|k8s://[^\s/]+/[^\s/:]+:\d+)$")]
HexKey = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
Usd = Annotated[float, Field(ge=0, le=10_000)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class SettingsError(Exception):
    """The configuration cannot be used; the text names the file, the line and the field."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(_Section):
    """Where the gateway listens and what it accepts."""

    host: str = Field(default="127.0.0.1", description="Address of the public API.")
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port of the public API.")
    metrics_host: str = Field(default="127.0.0.1", description="Address of /metrics.")
    metrics_port: int = Field(default=9100, ge=0, le=65535, description="TCP port of /metrics; 0 switches it off.")
    max_body_bytes: int = Field(default=16 * 1024 * 1024, ge=1024, description="Largest request body, in bytes.")
    body_timeout_seconds: Seconds = Field(default=30.0, description="Longest time for a request body, in seconds.")
    shutdown_grace_seconds: Seconds = Field(
        default=600.0, description="How long running streams may finish after SIGTERM, in seconds."
    )


class ProviderSettings(_Section):
    """An OpenAI-compatible service."""

    name: Name = Field(description="The name that routes use.")
    base_url: Url = Field(description="Address, with or without a closing /v1.")
    api_key: SecretStr | None = Field(default=None, description="Sent as a bearer token; better given as environment.")
    priced_as: str | None = Field(
        default=None, description="The provider of the public price list that this is; none finds it by its address."
    )
    fine_tuning: bool = Field(
        default=False, description="True: a trainer of yours runs fine-tuning jobs at this provider."
    )
    connect_timeout_seconds: Seconds = Field(default=2.0, description="To open a connection, in seconds.")
    first_byte_timeout_seconds: Seconds = Field(default=120.0, description="Until the answer starts, in seconds.")
    idle_timeout_seconds: Seconds = Field(default=60.0, description="Between two blocks of an answer, in seconds.")
    total_timeout_seconds: Seconds = Field(default=600.0, description="For one whole answer, in seconds.")

    def value(self) -> Provider:
        """The same as a plain value for the stages."""
        fields = self.model_dump(exclude={"api_key", "priced_as", "fine_tuning"})
        return Provider(**fields, api_key=self.api_key.get_secret_value() if self.api_key else None)


class PoolSettings(_Section):
    """vLLM servers that serve the same base model and exchange LoRA adapters at run time."""

    name: Name = Field(description="The name that routes use.")
    replicas: list[Source] = Field(
        min_length=1,
        description="One address per vLLM server; or dns://name:port, or k8s://namespace/service:port, to find them.",
    )
    base_model: str = Field(default="base", description="The base model's served name on these servers.")
    max_loras: int = Field(default=1, ge=1, description="vLLM's --max-loras: adapters per batch.")
    max_cpu_loras: int = Field(default=1, ge=1, description="vLLM's --max-cpu-loras: adapters kept in host memory.")
    max_lora_rank: int | None = Field(
        default=None, ge=1, le=512, description="vLLM's --max-lora-rank; adapters of a higher rank go to another pool."
    )
    family: Name | None = Field(
        default=None, description="Pools of one family serve the same base model with different largest ranks."
    )
    keep_warm: list[Name] = Field(default_factory=list, description="Tenants whose adapters are loaded before a call.")
    adapters_folder: str | None = Field(
        default=None,
        pattern=r"^/[^\x00]*[^/\x00]$",
        description="Where these servers have the adapter folder, when it is not where the gateway has it.",
    )
    resolver: bool = Field(
        default=False, description="True: these servers fetch adapters themselves, with the plugin of vllm_plugin/."
    )
    check_effect: bool = Field(
        default=True, description="Before its first call, an adapter must answer otherwise than the base model."
    )
    api_key: SecretStr | None = Field(default=None, description="vLLM's --api-key, when it has one.")
    connect_timeout_seconds: Seconds = Field(default=2.0, description="To open a connection, in seconds.")
    first_byte_timeout_seconds: Seconds = Field(default=120.0, description="Until the answer starts, in seconds.")
    idle_timeout_seconds: Seconds = Field(default=60.0, description="Between two blocks of an answer, in seconds.")
    total_timeout_seconds: Seconds = Field(default=600.0, description="For one whole answer, in seconds.")
    load_timeout_seconds: Seconds = Field(default=30.0, description="To load an adapter, waiting included, in seconds.")

    def value(self) -> Pool:
        """The same as a plain value for the stages."""
        fields = self.model_dump(exclude={"api_key", "replicas", "keep_warm"})
        key = self.api_key.get_secret_value() if self.api_key else None
        urls = tuple(url.rstrip("/") for url in self.replicas)
        return Pool(**fields, replicas=urls, keep_warm=frozenset(self.keep_warm), api_key=key)


class TokenPrices(_Section):
    """What a model costs, in USD per million tokens (converted to whole micro-dollars, rounded up)."""

    input_usd_per_mtok: Usd = Field(description="USD per million prompt tokens.")
    output_usd_per_mtok: Usd = Field(description="USD per million completion tokens.")
    cached_input_usd_per_mtok: Usd | None = Field(
        default=None, description="USD per million prompt tokens that the upstream had cached; none is as other input."
    )
    reasoning_usd_per_mtok: Usd | None = Field(
        default=None, description="USD per million reasoning tokens; none is as other output."
    )

    def value(self) -> Price:
        """Whole micro-dollars per million tokens."""
        cached, reasoning = self.cached_input_usd_per_mtok, self.reasoning_usd_per_mtok
        return Price(
            _microusd(self.input_usd_per_mtok),
            _microusd(self.output_usd_per_mtok),
            cached_microusd_per_mtok=None if cached is None else _microusd(cached),
            reasoning_microusd_per_mtok=None if reasoning is None else _microusd(reasoning),
        )


class PriceSettings(_Section):
    """What a model costs: by the token, or by the GPU hour of your own servers."""

    input_usd_per_mtok: Usd | None = Field(default=None, description="USD per million prompt tokens.")
    output_usd_per_mtok: Usd | None = Field(default=None, description="USD per million completion tokens.")
    cached_input_usd_per_mtok: Usd | None = Field(
        default=None, description="USD per million prompt tokens that the upstream had cached; none is as other input."
    )
    reasoning_usd_per_mtok: Usd | None = Field(
        default=None, description="USD per million reasoning tokens; none is as other output."
    )
    usd_per_gpu_hour: Usd | None = Field(
        default=None, description="USD per GPU hour instead of a price per token, for your own servers."
    )
    tokens_per_gpu_hour: int | None = Field(
        default=None, ge=1, description="Tokens, in and out, that one GPU hour serves when it is busy as planned."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        by_token = (self.input_usd_per_mtok is not None, self.output_usd_per_mtok is not None)
        by_hour = (self.usd_per_gpu_hour is not None, self.tokens_per_gpu_hour is not None)
        if (by_token, by_hour) in (((True, True), (False, False)), ((False, False), (True, True))):
            return self
        raise ValueError(
            "expected input_usd_per_mtok and output_usd_per_mtok, or usd_per_gpu_hour and tokens_per_gpu_hour"
        )

    def value(self) -> Price:
        """Whole micro-dollars per million tokens, rounded up."""
        if self.usd_per_gpu_hour is not None and self.tokens_per_gpu_hour is not None:
            each = _microusd(self.usd_per_gpu_hour * 1_000_000 / self.tokens_per_gpu_hour)
            return Price(each, each)
        names = TokenPrices.model_fields
        return TokenPrices.model_validate({name: getattr(self, name) for name in names}).value()


class PriceChange(PriceSettings):
    """A price from a day on."""

    since: date = Field(description="The UTC day from which this price holds.")

    def instant(self) -> float:
        """The beginning of that day, in seconds since the epoch."""
        return datetime.combine(self.since, datetime.min.time(), UTC).timestamp()


class ModelPrices(PriceSettings):
    """What a model costs now, and what it will cost."""

    changes: list[PriceChange] = Field(default_factory=list, description="Later prices, each from its day on.")


def _microusd(usd: float) -> int:
    return math.ceil(Decimal(str(usd)) * 1_000_000)


class Pricing(_Section):
    """Prices of upstream models; nothing is free by accident."""

    models: dict[str, ModelPrices] = Field(
        default_factory=dict, description="`upstream/model` (or `upstream/*`) to its price; adapters use their pool's."
    )
    file: Path | None = Field(
        default=None, description="A price map in LiteLLM's format; it goes before the public list and `upstream/*`."
    )
    public: bool = Field(
        default=True, description="Providers at a known address have the public list prices unless you set others."
    )
    unknown: Literal["block", "default"] = Field(
        default="block", description="A model without a price is refused, or charged the default price."
    )
    default: TokenPrices = Field(
        default=TokenPrices(input_usd_per_mtok=5.0, output_usd_per_mtok=15.0),
        description="The price under `unknown: default`.",
    )


class Admission(_Section):
    """How much is held for a running request."""

    lease_seconds: int = Field(
        default=900,
        ge=5,
        le=86_400,
        description="Without settlement for so long, a request is charged its estimate.",
    )
    default_output_tokens: int = Field(
        default=256,
        ge=1,
        le=1_000_000,
        description="Held for a request without max_tokens while the route's own use is unknown.",
    )
    without_redis: Literal["local", "refuse"] = Field(
        default="local",
        description="While Redis is away: admit by this gateway's share of the limits, or refuse everything with 503.",
    )
    gateways: int = Field(
        default=1, ge=1, le=10_000, description="Gateways that share the limits: each takes its part without Redis."
    )
    allowance_microusd: int = Field(
        default=50_000,
        ge=0,
        le=10**12,
        description="What one gateway may spend of any budget without Redis, in micro-dollars; 0 spends nothing.",
    )
    max_output_tokens: int = Field(default=131_072, ge=1, description="Largest max_tokens that is accepted.")
    max_choices: int = Field(default=8, ge=1, le=128, description="Largest `n` that is accepted.")


class EmbedderSettings(_Section):
    """An embedding service in place of MiniLM; the texts of cached routes are sent to it."""

    upstream: Name = Field(description="The provider or pool whose /v1/embeddings is used.")
    model: str = Field(description="The embedding model's name there.")
    dimensions: int = Field(ge=1, le=8192, description="How long its vectors are.")
    timeout_seconds: Seconds = Field(default=2.0, description="For one request of it, in seconds.")


class CacheSettings(_Section):
    """The cache's own sizes; whether a route uses it is said on the route."""

    max_scopes: int = Field(default=1024, ge=1, description="Scopes whose vectors are kept in memory per process.")
    max_entries_per_scope: int = Field(default=10_000, ge=1, description="Answers kept per scope.")
    max_entries_per_tenant: int = Field(
        default=50_000, ge=1, description="Vectors of one tenant in memory per process; least recently used scopes go."
    )
    max_answer_bytes: int = Field(default=1024 * 1024, ge=1, description="Largest answer that is kept.")
    coalesced_callers_pay: Literal["first", "each"] = Field(
        default="first",
        description="Of identical calls answered by one upstream call, the first to get its answer pays, or each.",
    )
    semantic: bool = Field(default=True, description="False leaves the sentence embedder unloaded: exact answers only.")
    embedder: EmbedderSettings | None = Field(
        default=None, description="A provider or pool that embeds; none uses MiniLM in this process."
    )


class BaseModelSettings(_Section):
    """A base model that adapters may be made for."""

    config_file: Path = Field(description="Its config.json, which says the sizes that adapters must have.")


class SignerSettings(_Section):
    """Somebody who vouches for adapters."""

    public_key: HexKey = Field(description="The ed25519 public key.")


class ObjectStoreSettings(_Section):
    """An S3-compatible store that adapters are imported from."""

    endpoint: Url = Field(default="https://s3.amazonaws.com", description="Its address, without a bucket.")
    region: str = Field(default="us-east-1", description="The region that signatures name.")
    access_key: str | None = Field(default=None, description="The public half of the key; none switches it off.")
    signing_key: SecretStr = Field(default=SecretStr(""), description="The other half; better given as environment.")


class AdapterSettings(_Section):
    """What an adapter must be before it is registered, and how long its files stay after it is retired."""

    bases: dict[str, BaseModelSettings] = Field(
        default_factory=dict, description="By the name in adapter_config.json; with any, others are refused."
    )
    signers: dict[Name, SignerSettings] = Field(default_factory=dict, description="Whose signatures are trusted.")
    require_signature: bool = Field(default=False, description="Refuse adapters that no trusted signer signed.")
    s3: ObjectStoreSettings = Field(
        default=ObjectStoreSettings(), description="Where s3:// adapters are imported from."
    )
    files_horizon_seconds: float = Field(
        default=86_400.0, ge=60, description="How long a retired version's files stay, in seconds."
    )


class TrainingBudget(_Section):
    """What a tenant may train."""

    max_open_jobs: int = Field(default=3, ge=0, le=10_000, description="Fine-tuning jobs that have not ended; 0: none.")
    max_tokens_per_month: int | None = Field(
        default=None, ge=0, le=10**15, description="Tokens trained in a calendar month (UTC); none: no bound."
    )


class Training(_Section):
    """Files, fine-tuning jobs, and the trainers that do them."""

    enabled: bool = Field(default=True, description="False takes files, fine-tuning and the training API away.")
    budget: TrainingBudget = Field(default=TrainingBudget(), description="Of every tenant that is not named below.")
    tenants: dict[Name, TrainingBudget] = Field(default_factory=dict, description="A tenant's own budget, by its id.")
    lease_seconds: Seconds = Field(
        default=60.0, description="Without a heartbeat for so long, another trainer may take a job, in seconds."
    )
    max_attempts: int = Field(default=3, ge=1, le=100, description="A job whose trainers are lost so often has failed.")
    max_file_bytes: int = Field(default=512 * 1024 * 1024, ge=1, description="Largest uploaded file, in bytes.")
    max_stored_bytes: int = Field(default=10 * 1024**3, ge=1, description="All files of one tenant together, in bytes.")
    max_artifact_bytes: int = Field(
        default=16 * 1024**3, ge=1, description="Largest checkpoint or adapter that a trainer uploads, in bytes."
    )


class Webhooks(_Section):
    """Messages to addresses that tenants' endpoints name."""

    allow_private_networks: bool = Field(
        default=False, description="True also sends to http:// and to private addresses: for closed networks only."
    )
    timeout_seconds: Seconds = Field(default=10.0, description="For one delivery, in seconds.")


class Telemetry(_Section):
    """Logs and traces."""

    log_format: Literal["json", "console"] = Field(default="json", description="JSON lines or coloured text.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level written.")
    otlp_endpoint: Url | None = Field(default=None, description="OTLP/HTTP traces address; none switches tracing off.")
    trace_sample_ratio: float = Field(default=0.01, ge=0, le=1, description="Share of requests traced, 0 to 1.")


class IssuerSettings(_Section):
    """An issuer of tokens that is believed (OIDC)."""

    issuer: Url = Field(description="The `iss` claim of its tokens, exactly.")
    audience: str = Field(min_length=1, description="What the `aud` claim must hold.")
    jwks_url: Url = Field(description="Address of its key set.")
    algorithms: list[
        Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
    ] = Field(default=["RS256"], min_length=1, description="Signatures that are accepted; no others, whatever is said.")
    tenant_claim: str = Field(default="tenant", description="The claim that names the tenant.")
    team_claim: str | None = Field(default="team", description="The claim that names the team, if it is there.")
    scopes_claim: str | None = Field(
        default=None, description="The claim that lists operations (chat, completions, …); none allows all."
    )
    scope_prefix: str = Field(default="", description="What stands before an operation's name in that claim.")
    routes_claim: str | None = Field(default=None, description="The claim that lists models; none allows all.")

    def value(self) -> Issuer:
        """The same as a plain value."""
        return Issuer(**self.model_dump())


class IdentitySettings(_Section):
    """Who callers are, beside API keys."""

    issuers: list[IssuerSettings] = Field(default_factory=list, description="Issuers of tokens.")
    own_provider_keys: bool = Field(
        default=True, description="Callers may send a provider's key of their own as X-Provider-Key."
    )
    master_key: SecretStr | None = Field(
        default=None,
        description="Seals tenants' provider keys; the same for all gateways. None makes one in `master.key`.",
    )


class Settings(BaseSettings):
    """Everything the gateway can be told."""

    model_config = SettingsConfigDict(
        env_prefix="TUNEGATE_", env_nested_delimiter="__", extra="forbid", frozen=True, populate_by_name=True
    )

    data_folder: Path = Field(
        default=Path(".tunegate"),
        validation_alias=AliasChoices("data_folder", "TUNEGATE_DATA"),
        description="Holds the embedded stores, artifacts and models.",
    )
    redis_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("redis_url", "REDIS_URL"),
        description="redis:// or rediss:// address; none starts a real redis-server in the data folder.",
    )
    redis_timeout_ms: int = Field(default=50, ge=1, le=10_000, description="Longest Redis operation.")
    database_url: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("database_url", "DATABASE_URL"),
        description="postgresql:// address; none uses SQLite in the data folder.",
    )
    admin_key: SecretStr | None = Field(
        default=None,
        description="Secret of the admin API; none makes one, kept in `admin.key` of the data folder.",
    )
    user_hash_key: SecretStr | None = Field(
        default=None,
        description="Key of the hashes that users appear as; the same for all gateways. None makes one in `user.key`.",
    )
    admin_enabled: bool = Field(default=True, description="False takes the admin API away from this process.")
    trainer_secret: SecretStr | None = Field(
        default=None,
        description="Secret of the training API; none makes one, kept in `trainer.key` of the data folder.",
    )
    webhook_key: SecretStr | None = Field(
        default=None,
        description="Endpoints' secrets are made of it; the same for all gateways. None makes one in `webhook.key`.",
    )
    policy_poll_seconds: Seconds = Field(default=0.5, description="How often keys and routes are compared with SQL.")
    policy_max_age_seconds: Seconds = Field(
        default=900.0, description="How long the last known keys serve while SQL is away; then 503."
    )
    server: Server = Field(default=Server(), description="Listening and accepting.")
    providers: list[ProviderSettings] = Field(default_factory=list, description="OpenAI-compatible services.")
    pools: list[PoolSettings] = Field(default_factory=list, description="vLLM pools.")
    identity: IdentitySettings = Field(default=IdentitySettings(), description="Tokens and provider keys of callers.")
    prices: Pricing = Field(default=Pricing(), description="What upstream models cost.")
    adapters: AdapterSettings = Field(default=AdapterSettings(), description="Rules for adapters.")
    admission: Admission = Field(default=Admission(), description="Leases and estimates.")
    cache: CacheSettings = Field(default=CacheSettings(), description="Sizes of the answer cache.")
    training: Training = Field(default=Training(), description="Files, fine-tuning jobs and trainers.")
    webhooks: Webhooks = Field(default=Webhooks(), description="Deliveries to tenants' endpoints.")
    telemetry: Telemetry = Field(default=Telemetry(), description="Logs and traces.")
    openai_api_key: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("openai_api_key", "OPENAI_API_KEY"),
        description="Adds a provider called `openai`.",
    )
    openai_base_url: Url | None = Field(
        default=None,
        validation_alias=AliasChoices("openai_base_url", "OPENAI_BASE_URL"),
        description="Address of the provider called `openai`.",
    )
    vllm_urls: str | None = Field(
        default=None,
        validation_alias=AliasChoices("vllm_urls", "VLLM_URLS"),
        description="Comma-separated addresses; adds a pool called `vllm`.",
    )

    @field_validator("vllm_urls")
    @classmethod
    def _addresses(cls, value: str | None) -> str | None:
        for url in (value or "").split(","):
            if value and not url.strip().startswith(("http://", "https://")):
                raise ValueError("expected http:// or https:// addresses, separated by commas")
        return value

    def all_providers(self) -> dict[str, Provider]:
        """Providers of the file and the one that the environment adds, by name."""
        found = {provider.name: provider.value() for provider in self.providers}
        if (self.openai_api_key or self.openai_base_url) and "openai" not in found:
            base_url = self.openai_base_url or "https://api.openai.com/v1"
            found["openai"] = ProviderSettings(name="openai", base_url=base_url, api_key=self.openai_api_key).value()
        return found

    def all_pools(self) -> dict[str, Pool]:
        """Pools of the file and the one that the environment adds, by name."""
        found = {pool.name: pool.value() for pool in self.pools}
        if self.vllm_urls and "vllm" not in found:
            urls = [url.strip() for url in self.vllm_urls.split(",")]
            found["vllm"] = PoolSettings(name="vllm", replicas=urls).value()
        return found

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is the library's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - no .env files
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - no secret folders
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file: the file arrives as keyword arguments."""
        return (env_settings, init_settings)


def load(path: Path | None = None) -> Settings:
    """Read `path` (default: `tunegate.yaml` here, or TUNEGATE_CONFIG, if there) and the environment.

    Raises SettingsError that names file, line and field for everything that is wrong, all at once.
    """
    chosen = path or Path(os.environ.get("TUNEGATE_CONFIG", "tunegate.yaml"))
    if path is None and "TUNEGATE_CONFIG" not in os.environ and not chosen.exists():
        values: Mapping[str, Any] = {}
        lines: dict[tuple[str | int, ...], int] = {}
    else:
        values, lines = _read(chosen)
    try:
        return Settings(**values)
    except ValidationError as exc:
        raise SettingsError("\n".join(_explain(chosen, lines, error) for error in exc.errors())) from None


def _read(path: Path) -> tuple[Mapping[str, Any], dict[tuple[str | int, ...], int]]:
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SettingsError(
            f"{path}: cannot be read ({exc.strerror}); give --config or remove TUNEGATE_CONFIG"
        ) from exc
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise SettingsError(f"{path}:{line}: not YAML: {exc.problem}") from exc
    if values is None:
        return {}, {}
    if not isinstance(values, dict):
        raise SettingsError(f"{path}:1: expected a mapping of settings at the top")
    lines: dict[tuple[str | int, ...], int] = {}
    if node is not None:
        _mark(node, (), lines)
    return values, lines


def _mark(node: yaml.Node, place: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]) -> None:
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, str(key.value))
            lines[inner] = key.start_mark.line + 1
            _mark(value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _mark(value, (*place, index), lines)


def _explain(path: Path, lines: Mapping[tuple[str | int, ...], int], error: Any) -> str:
    place = tuple(error["loc"])
    field = ".".join(str(part) for part in place)
    message = "unknown setting" if error["type"] == "extra_forbidden" else error["msg"]
    known = place
    while known and known not in lines:
        known = known[:-1]
    if known and (known == place or error["type"] == "missing"):
        return f"{path}:{lines[known]}: {field}: {message}"
    return f"environment or {path}: {field}: {message}"
