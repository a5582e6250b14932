"""Checkpoints of a fine-tuning job: the newest one is where its next trainer goes on."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.administration.change import Page, Row
from app.storage.tables import fine_tuning_checkpoints as table
from app.storage.tuning.pages import part


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a trainer committed at one step; the bytes are a blob of the job."""

    id: str
    job_id: str
    step: int
    created_at: float
    sha256: str
    bytes: int
    metrics: Mapping[str, Any]


def new_id() -> str:
    """OpenAI's form of a checkpoint's id."""
    return f"ftckpt_{secrets.token_hex(12)}"


async def commit(connection: AsyncConnection, made: Checkpoint) -> set[str]:
    """Keep a checkpoint and return the hashes of those before it, whose bytes may go.

    The same step again replaces it; a lower step than the newest is ignored.
    """
    known = (await connection.execute(select(table.c.step, table.c.sha256).where(table.c.job_id == made.job_id))).all()
    newest = max((step for step, _ in known), default=-1)
    if made.step < newest:
        return set()
    values = {"sha256": made.sha256, "bytes": made.bytes, "metrics": made.metrics}
    if made.step == newest:
        place = (table.c.job_id == made.job_id, table.c.step == made.step)
        await connection.execute(update(table).where(*place).values(values))
    else:
        named = {"id": made.id, "job_id": made.job_id, "step": made.step, "created_at": made.created_at}
        await connection.execute(table.insert().values({**named, **values}))
    return {sha256 for _, sha256 in known} - {made.sha256}


async def newest(connection: AsyncConnection, job_id: str) -> Checkpoint | None:
    """The one to go on from."""
    query = select(table).where(table.c.job_id == job_id).order_by(table.c.step.desc()).limit(1)
    row = (await connection.execute(query)).mappings().one_or_none()
    return None if row is None else _checkpoint(row)


async def is_committed(connection: AsyncConnection, job_id: str, sha256: str) -> bool:
    """Whether these bytes are a checkpoint of the job."""
    query = select(table.c.step).where(table.c.job_id == job_id, table.c.sha256 == sha256).limit(1)
    return await connection.scalar(query) is not None


async def listing(connection: AsyncConnection, job_id: str, *, after: str | None, limit: int) -> Page[Checkpoint]:
    """A job's checkpoints, newest first; raises InvalidRequest for an `after` that is none of them."""
    mine = table.c.job_id == job_id
    return await part(connection, (table.c.step,), mine, _checkpoint, after=after, limit=limit)


def _checkpoint(row: Row) -> Checkpoint:
    return Checkpoint(**{name: row[name] for name in Checkpoint.__dataclass_fields__})
