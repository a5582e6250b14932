"""The JSON shapes of docs/training-api.md; unknown members are ignored, so that the gateway may grow."""

from __future__ import annotations

from typing import Any

import msgspec


class FileRef(msgspec.Struct, frozen=True):
    """A file of a job, and what its bytes must hash to."""

    id: str
    filename: str
    bytes: int
    sha256: str


class JobFiles(msgspec.Struct, frozen=True):
    """The files a job is trained and measured on."""

    training: FileRef
    validation: FileRef | None = None


class JobSpec(msgspec.Struct, frozen=True):
    """What the tenant asked for; hyperparameters are numbers or `auto`."""

    id: str
    tenant: str
    name: str
    model: str
    attempt: int
    method: str
    seed: int
    created_at: int
    hyperparameters: dict[str, Any] = {}
    recipe: str | None = None
    provider: str | None = None
    suffix: str | None = None


class Lease(msgspec.Struct, frozen=True):
    """The right to work on a job; durations in seconds from when the answer came."""

    token: int
    expires_in_seconds: float
    heartbeat_seconds: float


class CheckpointRef(msgspec.Struct, frozen=True):
    """The newest checkpoint an earlier holder committed."""

    step: int
    sha256: str
    bytes: int


class Claim(msgspec.Struct, frozen=True):
    """A job to work on."""

    job: JobSpec
    files: JobFiles
    lease: Lease
    checkpoint: CheckpointRef | None = None


class Stop(msgspec.Struct, frozen=True):
    """A job that has ended and is to be stopped at its provider, which has it by `provider_job`."""

    job: str
    provider: str
    provider_job: str
    lease: Lease


class Beat(msgspec.Struct, frozen=True):
    """The answer to a heartbeat; an unknown command means: go on."""

    lease: Lease
    command: str = "continue"


class Completion(msgspec.Struct, frozen=True):
    """The registered version, and the name requests use."""

    version: str
    fine_tuned_model: str


class Event(msgspec.Struct, frozen=True):
    """One line of a job's log, in OpenAI's shape."""

    id: str
    created_at: int
    level: str
    type: str
    message: str
    data: dict[str, Any] | None = None
