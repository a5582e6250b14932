"""How many training jobs there are that have not ended, and how long the one that waits longest has waited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import and_, case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.tables import fine_tuning_jobs as jobs
from app.storage.tuning.status import OPEN, Status

LOST = "lost"  # running, but its trainer's lease has run out and nobody has taken it over
STATES = (*OPEN, LOST)


@dataclass(frozen=True, slots=True)
class Census:
    """Jobs by state, each of `STATES`; seconds are 0 when nothing is queued."""

    by_state: Mapping[str, int]
    oldest_queued_seconds: float


async def census(connection: AsyncConnection, *, now: float) -> Census:
    """Count the jobs of all tenants; by the index of states, however many have ended."""
    out = and_(jobs.c.status == Status.RUNNING, jobs.c.lease_expires_at < now)
    state = case((out, LOST), else_=jobs.c.status)
    since = func.min(func.coalesce(jobs.c.stage_since, jobs.c.created_at))
    query = select(state, func.count(), since).where(jobs.c.status.in_(OPEN)).group_by(state)
    found = {name: (count, oldest) for name, count, oldest in (await connection.execute(query)).all()}
    _, oldest = found.get(Status.QUEUED.value, (0, now))
    return Census({name: found.get(name, (0, 0.0))[0] for name in STATES}, max(0.0, now - oldest))
