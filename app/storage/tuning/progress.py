"""How far a job's training has come, as far as it was ever told: what an early end is charged by.

Nothing told takes anything back: a trainer that begins anew, or does not know yet, has trained no less for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.tables import fine_tuning_jobs as jobs

MAX_STEPS = 2**53


@dataclass(frozen=True, slots=True)
class Progress:
    """Steps done, of steps in all; no `step`: training has not begun; no total: nobody knows how far it is."""

    step: int | None = None
    total_steps: int | None = None

    @property
    def share(self) -> float:
        """What is done, from 0 to 1; all of it where training has begun and nobody knows how far it is."""
        if self.step is None:
            return 0.0
        return min(1.0, self.step / self.total_steps) if self.total_steps else 1.0

    def and_then(self, told: Progress) -> Progress:
        """The further of the two; figures with a total are believed before those without."""
        if told.step is None:
            return self
        if not told.total_steps:
            return self if self.total_steps else Progress(max(self.step or 0, told.step))
        return self if self.total_steps and self.share >= told.share else told


BEGUN = Progress(0)


def told_by(metrics: Mapping[str, Any] | None) -> Progress:
    """What the figures of an event say; a provider's may have no total."""
    figures = metrics or {}
    return Progress(_count(figures.get("step")), _count(figures.get("total_steps")))


async def keep(connection: AsyncConnection, job_id: str, known: Progress, told: Progress) -> None:
    """Write down what was told of a job whose row this transaction holds, if it is further than what was known."""
    now = known.and_then(told)
    if now != known:
        values = {"step": now.step, "total_steps": now.total_steps}
        await connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_STEPS else None
