"""The gateway's training API, as the trainer sees it: messages, errors, client."""

from adapters.gateway.client import TrainingApi
from adapters.gateway.errors import (
    Disagreement,
    GatewayAway,
    GatewayError,
    JobOver,
    LeaseLost,
    NotTaken,
    TrainerRefused,
)
from adapters.gateway.messages import (
    Beat,
    CheckpointRef,
    Claim,
    Completion,
    Event,
    FileRef,
    JobFiles,
    JobSpec,
    Lease,
    Stop,
)

__all__ = [
    "Beat",
    "CheckpointRef",
    "Claim",
    "Completion",
    "Disagreement",
    "Event",
    "FileRef",
    "GatewayAway",
    "GatewayError",
    "JobFiles",
    "JobOver",
    "JobSpec",
    "Lease",
    "LeaseLost",
    "NotTaken",
    "Stop",
    "TrainerRefused",
    "TrainingApi",
]
