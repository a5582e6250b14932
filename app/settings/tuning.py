"""Adapters and what makes them: rules for files, fine-tuning jobs and trainers."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from app.settings.fields import HexKey, Name, Seconds, Section, Url


class BaseModelSettings(Section):
    """A base model that adapters may be made for."""

    config_file: Path = Field(description="Its config.json, which says the sizes that adapters must have.")


class SignerSettings(Section):
    """Somebody who vouches for adapters."""

    public_key: HexKey = Field(description="The ed25519 public key.")


class ObjectStoreSettings(Section):
    """An S3-compatible store, and the key that opens it."""

    endpoint: Url = Field(default="https://s3.amazonaws.com", description="Its address, without a bucket.")
    region: str = Field(default="us-east-1", description="The region that signatures name.")
    access_key: str | None = Field(default=None, description="The public half of the key; none switches it off.")
    signing_key: SecretStr = Field(default=SecretStr(""), description="The other half; better given as environment.")


class AdapterSettings(Section):
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


class TrainingBudget(Section):
    """What a tenant may train."""

    max_open_jobs: int = Field(default=3, ge=0, le=10_000, description="Fine-tuning jobs that have not ended; 0: none.")
    max_tokens_per_month: int | None = Field(
        default=None, ge=0, le=10**15, description="Tokens trained in a calendar month (UTC); none: no bound."
    )


class Training(Section):
    """Files, fine-tuning jobs, and the trainers that do them."""

    enabled: bool = Field(default=True, description="False takes files, fine-tuning and the training API away.")
    budget: TrainingBudget = Field(default=TrainingBudget(), description="Of every tenant that is not named below.")
    tenants: dict[Name, TrainingBudget] = Field(default_factory=dict, description="A tenant's own budget, by its id.")
    lease_seconds: Seconds = Field(
        default=60.0, description="Without a heartbeat for so long, another trainer may take a job, in seconds."
    )
    max_attempts: int = Field(default=3, ge=1, le=100, description="A job whose trainers are lost so often has failed.")
    store_url: str | None = Field(
        default=None,
        description="Where files and blobs are, as s3://bucket/folder; none: `objects/` of the data folder.",
    )
    s3: ObjectStoreSettings = Field(
        default=ObjectStoreSettings(), description="The store of `store_url`; its key may read, write, delete and list."
    )
    max_file_bytes: int = Field(default=512 * 1024 * 1024, ge=1, description="Largest uploaded file, in bytes.")
    max_stored_bytes: int = Field(default=10 * 1024**3, ge=1, description="All files of one tenant together, in bytes.")
    max_artifact_bytes: int = Field(
        default=16 * 1024**3, ge=1, description="Largest checkpoint or adapter that a trainer uploads, in bytes."
    )
