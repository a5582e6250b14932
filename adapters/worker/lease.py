"""A lease while it is held: its token, what a heartbeat tells, and when to let go without being told.

A heartbeat that does not get through is tried again at the next beat. When the lease's whole length has passed since
the last answer, the training stops by itself: GPUs are not spent on a job that another trainer may have. Correctness
does not need that, since every write carries the token.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from adapters.gateway import GatewayAway, JobOver, Lease, LeaseLost, TrainingApi
from adapters.training.process import TrainingProcess

Sleep = Callable[[float], Coroutine[Any, Any, None]]
Clock = Callable[[], float]


class Verdict(StrEnum):
    """Why a job is to be let go."""

    LOST = "lost"
    OVER = "over"
    CANCEL = "cancel"
    PAUSE = "pause"
    SILENT = "silent"


@dataclass(slots=True)
class HeldLease:
    """What the heartbeat and the stages share about one job."""

    lease: Lease
    stage: str = "prepare"
    step: int | None = None
    total_steps: int | None = None
    seconds_left: float | None = None
    process: TrainingProcess | None = None
    provider_job: str | None = None  # by which the job is found at its provider, from before it is started there

    @property
    def token(self) -> int:
        """The fencing token that every write carries."""
        return self.lease.token

    def at(self, stage: str) -> None:
        """Name the stage that begins."""
        self.stage = stage
        self.seconds_left = None

    def beat(self) -> dict[str, Any]:
        """What the next heartbeat says."""
        return {
            "stage": self.stage,
            "step": self.step,
            "total_steps": self.total_steps,
            "seconds_left": self.seconds_left,
        } | ({} if self.provider_job is None else {"provider_job": self.provider_job})


async def keep(
    api: TrainingApi, job: str, held: HeldLease, *, sleep: Sleep = asyncio.sleep, clock: Clock = time.monotonic
) -> Verdict:
    """Beat until there is a reason to let the job go, and say which."""
    heard = clock()
    while True:
        await sleep(held.lease.heartbeat_seconds)
        try:
            answer = await api.heartbeat(job, held.token, held.beat())
        except LeaseLost:
            return Verdict.LOST
        except JobOver:
            return Verdict.OVER
        except GatewayAway:
            if clock() - heard > held.lease.expires_in_seconds:
                return Verdict.SILENT
            continue
        heard, held.lease = clock(), answer.lease
        if answer.command in (Verdict.CANCEL, Verdict.PAUSE):
            return Verdict(answer.command)
