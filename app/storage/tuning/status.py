"""Where a fine-tuning job can be."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """OpenAI's words for it; `paused` as its pause endpoint has it."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN = (Status.QUEUED.value, Status.RUNNING.value, Status.PAUSED.value)  # anything else is an end for ever
