"""What trainers and the gateway say to one another (docs/training-api.md); unknown fields are refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from app.api.admin.fields import PRINTABLE, Strict
from app.storage.tuning.leases import Terms

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="64 hexadecimal digits.")]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=PRINTABLE)]
Names = Annotated[list[Annotated[str, Field(max_length=400)]], Field(max_length=100)]
Text = Annotated[str, AfterValidator(lambda text: text.replace("\0", "\ufffd"))]  # PostgreSQL keeps no null character
Count = Annotated[int, Field(strict=True, ge=0, le=2**53)]


class ClaimJson(Strict):
    """A trainer that asks for work."""

    trainer: Name
    bases: Names
    providers: Names = Field(default_factory=list)
    wait_seconds: float = Field(default=0, ge=0, le=30)


class StopClaimJson(Strict):
    """A trainer that asks what to stop at its providers."""

    trainer: Name
    providers: Names


class BeatJson(Strict):
    """How far a trainer is."""

    stage: Literal["prepare", "train", "servable", "register"]
    step: Count | None = None
    total_steps: Count | None = None
    seconds_left: float | None = Field(default=None, ge=0, le=10**9, allow_inf_nan=False)
    provider_job: Name | None = None


class EventJson(Strict):
    """One line of a job's log."""

    id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    created_at: float = Field(ge=0, le=10**11, allow_inf_nan=False)
    level: Literal["info", "warn", "error"]
    type: Literal["message", "metrics"]
    message: Text = Field(max_length=4000)
    data: dict[str, Any] | None = None


class EventsJson(Strict):
    """Lines of a job's log."""

    events: list[EventJson] = Field(max_length=100)


class CheckpointJson(Strict):
    """A blob that is the job's newest checkpoint."""

    step: Count
    blob: Sha256
    metrics: dict[str, Any] = Field(default_factory=dict)


class CompletionJson(Strict):
    """What has come of a job: an adapter, or (`provider_model`) a provider's model."""

    artifact: Sha256 | None = None
    adapter_sha256: Sha256 | None = None
    manifest: dict[str, Any] | None = None
    signature: str | None = Field(default=None, max_length=200)
    provider_model: str | None = Field(default=None, min_length=1, max_length=160, pattern=PRINTABLE)
    trained_tokens: Count
    metrics: dict[str, Any] = Field(default_factory=dict)


class FailureJson(Strict):
    """Why a job cannot be done, in words for its tenant."""

    code: str = Field(pattern=r"^[a-z_]{1,64}$")
    message: Text = Field(max_length=4000)
    param: str | None = Field(default=None, max_length=200)


class ReleaseJson(Strict):
    """Why a job is given back."""

    reason: str = Field(default="", max_length=400)


class LeaseJson(BaseModel):
    """The right to work on a job: durations, never instants."""

    token: int
    expires_in_seconds: float
    heartbeat_seconds: float

    @classmethod
    def of(cls, token: int, terms: Terms) -> LeaseJson:
        """The same as JSON."""
        return cls(token=token, expires_in_seconds=terms.lease_seconds, heartbeat_seconds=terms.heartbeat_seconds)


class CommandJson(BaseModel):
    """The answer to a heartbeat."""

    lease: LeaseJson
    command: str


class CompletedJson(BaseModel):
    """What was registered, and the name that requests use."""

    version: str
    fine_tuned_model: str
