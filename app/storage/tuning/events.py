"""The log of a fine-tuning job, newest first to readers. An event that comes twice is kept once."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.administration.change import Page, Row
from app.storage.tables import fine_tuning_events as table
from app.storage.tuning.pages import part


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One line; `data` holds figures for events of type `metrics`."""

    id: str
    created_at: float
    level: str
    type: str
    message: str
    data: Mapping[str, Any] | None = None


async def append(connection: AsyncConnection, job_id: str, events: Sequence[JobEvent]) -> None:
    """Add events in this order; those whose id the job has already stay as they are."""
    insert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    for event in events:
        values = {"job_id": job_id, **asdict(event)}
        await connection.execute(insert(table).values(values).on_conflict_do_nothing())


async def say(connection: AsyncConnection, job_id: str, message: str, *, at: float, level: str = "info") -> None:
    """Add a message of the gateway's own."""
    await append(connection, job_id, [JobEvent(f"ftevent-{secrets.token_hex(12)}", at, level, "message", message)])


async def listing(connection: AsyncConnection, job_id: str, *, after: str | None, limit: int) -> Page[JobEvent]:
    """A job's events, newest first; raises InvalidRequest for an `after` that is none of them."""
    mine = table.c.job_id == job_id
    return await part(connection, (table.c.number,), mine, _event, after=after, limit=limit)


def _event(row: Row) -> JobEvent:
    return JobEvent(**{name: row[name] for name in JobEvent.__dataclass_fields__})
