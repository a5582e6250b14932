"""Where answers come from: providers, and pools of vLLM servers."""

from __future__ import annotations

from pydantic import Field, SecretStr, field_validator

from app.settings.addresses import header_secret
from app.settings.fields import Name, Seconds, Section, Source, Url
from app.types import Pool, Provider


class ProviderSettings(Section):
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

    @field_validator("api_key")
    @classmethod
    def _sendable(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else SecretStr(header_secret(value.get_secret_value()))

    def value(self) -> Provider:
        """The same as a plain value for the stages."""
        fields = self.model_dump(exclude={"api_key", "priced_as", "fine_tuning"})
        return Provider(**fields, api_key=self.api_key.get_secret_value() if self.api_key else None)


class PoolSettings(Section):
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

    @field_validator("api_key")
    @classmethod
    def _sendable(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else SecretStr(header_secret(value.get_secret_value()))

    def value(self) -> Pool:
        """The same as a plain value for the stages."""
        fields = self.model_dump(exclude={"api_key", "replicas", "keep_warm"})
        key = self.api_key.get_secret_value() if self.api_key else None
        urls = tuple(url.rstrip("/") for url in self.replicas)
        return Pool(**fields, replicas=urls, keep_warm=frozenset(self.keep_warm), api_key=key)
