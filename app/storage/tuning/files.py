"""Files of tenants: what SQL knows of them; their bytes are in the object store under `object_key`.

The bytes come first and go last: a row is written when they are whole, and removed before them, so no file is listed
that cannot be read. What a crash leaves between is bytes that nobody names, which the sweep of expired files removes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import Conflict, NotFound, QuotaExhausted
from app.storage.administration.change import Page, Row
from app.storage.tables import files, fine_tuning_jobs, tenants
from app.storage.tuning.pages import part
from app.storage.tuning.status import OPEN
from app.storage.tuning.tenancy import lock

NO_RETRY = ((b"x-should-retry", b"false"),)
ANY_AGE = 0.0  # as `now`: a job's file is there for its trainer past its date too


@dataclass(frozen=True, slots=True)
class File:
    """A tenant's file; `expires_at=None` stays until it is deleted."""

    id: str
    tenant_id: str
    filename: str
    purpose: str
    bytes: int
    sha256: str
    created_at: float
    expires_at: float | None = None


def owner(file_id: str) -> str:
    """Whose the bytes are, in the object store."""
    return f"files/{file_id}"


def object_key(file: File) -> str:
    """Where the bytes are."""
    return f"{owner(file.id)}/{file.sha256}"


async def stored_bytes(connection: AsyncConnection, tenant_id: str) -> int:
    """What all files of the tenant take together."""
    total = select(func.coalesce(func.sum(files.c.bytes), 0)).where(files.c.tenant_id == tenant_id)
    return int(await connection.scalar(total) or 0)


async def add(connection: AsyncConnection, file: File, *, max_stored_bytes: int) -> None:
    """Make a file known; raises QuotaExhausted when the tenant's files would be more than it may keep.

    Race removed: two uploads that each see room for one. The tenant is locked while the sum is compared.
    """
    await lock(connection, file.tenant_id)
    if await stored_bytes(connection, file.tenant_id) + file.bytes > max_stored_bytes:
        raise over_quota(max_stored_bytes)
    await connection.execute(files.insert().values(asdict(file)))


def over_quota(max_stored_bytes: int) -> QuotaExhausted:
    """The refusal of a file for which there is no room."""
    return QuotaExhausted(f"file: your files may take {max_stored_bytes} bytes together; delete some first.")


async def get(connection: AsyncConnection, tenant_id: str, file_id: str, *, now: float) -> File:
    """The tenant's file; raises NotFound."""
    query = select(files).where(files.c.id == file_id, _mine(tenant_id, now))
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"No such File object: {file_id}", param="id")
    return _file(row)


async def listing(
    connection: AsyncConnection,
    tenant_id: str,
    *,
    now: float,
    purpose: str | None,
    after: str | None,
    limit: int,
    newest_first: bool,
) -> Page[File]:
    """The tenant's files by creation time."""
    mine, order = _mine(tenant_id, now), (files.c.created_at, files.c.id)
    if purpose is not None:
        mine = and_(mine, files.c.purpose == purpose)
    return await part(connection, order, mine, _file, after=after, limit=limit, newest_first=newest_first)


async def remove(connection: AsyncConnection, tenant_id: str, file_id: str, *, now: float) -> None:
    """Forget a file; raises NotFound, or Conflict while a job that has not ended needs it."""
    await lock(connection, tenant_id)
    await get(connection, tenant_id, file_id, now=now)
    job = await connection.scalar(select(fine_tuning_jobs.c.id).where(_needs(file_id)).limit(1))
    if job is not None:
        message = f"The fine-tuning job {job} needs this file; cancel the job or wait for its end."
        raise Conflict(message, param="id", headers=NO_RETRY)
    await connection.execute(delete(files).where(files.c.id == file_id, files.c.tenant_id == tenant_id))


async def remove_expired(connection: AsyncConnection, *, now: float, limit: int = 100) -> list[str]:
    """Forget files past their time, or of deleted tenants, that no open job needs; returns their ids.

    Their bytes may go now. Race removed: a job that is created with a file in the moment of its expiry. The tenants are
    locked, one sweep after another, before a second look decides.
    """
    needed = select(fine_tuning_jobs.c.id).where(_needs(files.c.id)).exists()
    orphaned = select(tenants.c.id).where(tenants.c.id == files.c.tenant_id, tenants.c.deleted).exists()
    expired = and_(or_(files.c.expires_at <= now, orphaned), ~needed)
    found = (await connection.execute(select(files.c.id, files.c.tenant_id).where(expired).limit(limit))).all()
    if not found:
        return []
    owners = select(tenants.c.id).where(tenants.c.id.in_({owner_id for _, owner_id in found})).order_by(tenants.c.id)
    await connection.execute(owners.with_for_update(key_share=True))
    gone = delete(files).where(files.c.id.in_([file_id for file_id, _ in found]), expired).returning(files.c.id)
    return [str(file_id) for file_id in (await connection.scalars(gone)).all()]


def _needs(file_id: Any) -> ColumnElement[bool]:
    jobs = fine_tuning_jobs.c
    return and_(or_(jobs.training_file == file_id, jobs.validation_file == file_id), jobs.status.in_(OPEN))


def _mine(tenant_id: str, now: float) -> ColumnElement[bool]:
    return and_(files.c.tenant_id == tenant_id, or_(files.c.expires_at.is_(None), files.c.expires_at > now))


def _file(row: Row) -> File:
    return File(**{name: row[name] for name in File.__dataclass_fields__})
