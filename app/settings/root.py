"""The whole configuration: its sections, and what concerns all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.settings.addresses import database_address, header_secret, redis_address, web_addresses
from app.settings.cache import CacheSettings
from app.settings.fields import Seconds, Url
from app.settings.identity import IdentitySettings
from app.settings.money import Admission, Pricing
from app.settings.process import Server, Telemetry, Webhooks
from app.settings.tuning import AdapterSettings, Training
from app.settings.upstreams import PoolSettings, ProviderSettings
from app.types import Pool, Provider


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
        description="Adds a provider called `openai`, or is the key of the file's provider of that name.",
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
        return None if value is None else web_addresses(value)

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: str | None) -> str | None:
        return None if value is None else redis_address(value)

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else SecretStr(database_address(value.get_secret_value()))

    @field_validator("admin_key", "trainer_secret", "openai_api_key")
    @classmethod
    def _sendable(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else SecretStr(header_secret(value.get_secret_value()))

    def all_providers(self) -> dict[str, Provider]:
        """Providers of the file and the one that the environment adds, by name.

        OPENAI_API_KEY is also the key of a provider of the file that is called `openai` and has none.
        """
        found = {provider.name: provider.value() for provider in self.providers}
        if self.openai_api_key and "openai" in found and found["openai"].api_key is None:
            found["openai"] = replace(found["openai"], api_key=self.openai_api_key.get_secret_value())
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
