"""Jobs that have ended here while a provider may still work for them: trainers stop them there (docs/training-api.md).

A job is due from its end until a trainer says that it is stopped, whoever ended it: a tenant that cancelled it while it
was queued or paused, a trainer that failed it or was lost, the deletion of its tenant. As with `leases`, exactly one of
those who ask gets it, under a token of its own, and it is offered again when that lease has run out. The job itself is
not touched: what its tenant sees is its end.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import Conflict
from app.storage.tables import fine_tuning_jobs as jobs
from app.storage.tuning import events
from app.storage.tuning.files import NO_RETRY
from app.storage.tuning.jobs import missing
from app.storage.tuning.leases import Terms, Trainer
from app.storage.tuning.status import Status

ENDED_EARLY = (Status.CANCELLED.value, Status.FAILED.value)


@dataclass(frozen=True, slots=True)
class Stop:
    """A job to stop at its provider, which its trainers know there by `provider_job`."""

    job_id: str
    provider: str
    provider_job: str
    token: int


async def claim(connection: AsyncConnection, trainer: Trainer, terms: Terms, *, now: float) -> Stop | None:
    """Lease the job of this trainer's providers that has waited longest to be stopped; None when there is none."""
    found = select(jobs.c.id).where(_due(trainer, now)).order_by(jobs.c.finished_at, jobs.c.id)
    chosen = found.limit(1).with_for_update(skip_locked=True).scalar_subquery()
    values = {
        "holder": trainer.name,
        "lease_token": jobs.c.lease_token + 1,
        "lease_expires_at": now + terms.lease_seconds,
    }
    of_it = (jobs.c.id, jobs.c.provider, jobs.c.provider_job, jobs.c.lease_token)
    claimed = update(jobs).where(jobs.c.id == chosen).values(values).returning(*of_it)
    row = (await connection.execute(claimed)).one_or_none()
    return None if row is None else Stop(*row)


async def is_waiting(connection: AsyncConnection, trainer: Trainer, *, now: float) -> bool:
    """Whether there may be a job to stop: a look that locks nothing."""
    return await connection.scalar(select(jobs.c.id).where(_due(trainer, now)).limit(1)) is not None


async def done(connection: AsyncConnection, job_id: str, token: int, *, now: float) -> bool:
    """Nothing runs at the provider for this job any more; returns False when that was known.

    For the holder of its last token, the trainer that worked on it too. Raises NotFound, or Conflict with the code
    `lease_lost`, or without one while the job has not ended early.
    """
    mine = (jobs.c.id == job_id, jobs.c.lease_token == token, jobs.c.status.in_(ENDED_EARLY))
    stopped = update(jobs).where(*mine, jobs.c.provider_job.is_not(None))
    values = {"provider_job": None, "holder": None, "lease_expires_at": None}
    if (await connection.execute(stopped.values(values))).rowcount:
        await events.say(connection, job_id, "The job has been stopped at the provider", at=now)
        return True
    known = (
        await connection.execute(select(jobs.c.lease_token, jobs.c.status).where(jobs.c.id == job_id))
    ).one_or_none()
    if known is None:
        raise missing(job_id)
    if known.lease_token != token:
        raise Conflict("The lease of this job is not yours any more.", code="lease_lost", headers=NO_RETRY)
    if known.status not in ENDED_EARLY:
        raise Conflict(f"The job is {known.status}; only one that is cancelled or failed is stopped.", headers=NO_RETRY)
    return False


def _due(trainer: Trainer, now: float) -> ColumnElement[bool]:
    free = or_(jobs.c.lease_expires_at.is_(None), jobs.c.lease_expires_at < now)
    ended = and_(jobs.c.provider_job.is_not(None), jobs.c.status.in_(ENDED_EARLY))
    return and_(ended, jobs.c.provider.in_(trainer.providers), free)
