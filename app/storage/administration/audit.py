"""The audit log: what every administrative change left behind, and what stood there before it.

It is written from the rows themselves: every change stamps them with its revision, so no endpoint can forget to tell,
and the entry commits with the change or not at all. `before` is what the log last said of the same object. What has no
row, such as the cache in Redis, is noted by whoever changed it (`note`). Entries are only ever added. Secrets and their
digests are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.administration.change import Page, Row
from app.storage.tables import audit_log, metadata

SECRET = frozenset({"digest", "previous_digest", "sealed_key"})
BOOKKEEPING = frozenset({"revision", "created_at"})


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One object's change: who, when, and both states; `before` None where the log knows of none."""

    revision: int
    object: str
    at: float
    who: str
    before: Row | None
    after: Row


async def record(connection: AsyncConnection, revision: int, *, at: float, who: str) -> None:
    """Write down every row that carries this revision."""
    for table in _tracked():
        rows = (await connection.execute(select(table).where(table.c.revision == revision))).mappings().all()
        for row in rows:
            await _write(connection, table, dict(row), revision, at=at, who=who)


async def note(connection: AsyncConnection, entry: AuditEntry) -> None:
    """Write down a change of something that has no row; its revision is that of the transaction it commits with."""
    values = {name: getattr(entry, name) for name in AuditEntry.__dataclass_fields__}
    await connection.execute(audit_log.insert().values(values))


async def listing(
    connection: AsyncConnection, *, about: str | None = None, after: int | None = None, limit: int = 100
) -> Page[AuditEntry]:
    """Entries from the newest back, of one object or of all; `after` is the last revision of the part before."""
    query = select(audit_log).order_by(audit_log.c.revision.desc(), audit_log.c.object)
    if about is not None:
        query = query.where(audit_log.c.object == about)
    if after is not None:
        query = query.where(audit_log.c.revision < after)
    rows = (await connection.execute(query.limit(limit + 1))).mappings().all()
    return Page([AuditEntry(**row) for row in rows[:limit]], has_more=len(rows) > limit)


async def _write(
    connection: AsyncConnection, table: Table, row: dict[str, Any], revision: int, *, at: float, who: str
) -> None:
    name = "/".join([table.name, *(str(row[column.name]) for column in table.primary_key)])
    before = await connection.scalar(
        select(audit_log.c.after).where(audit_log.c.object == name).order_by(audit_log.c.revision.desc()).limit(1)
    )
    after = {key: _json(value) for key, value in row.items() if key not in SECRET | BOOKKEEPING}
    entry = {"revision": revision, "object": name, "at": at, "who": who, "before": before, "after": after}
    await connection.execute(audit_log.insert().values(entry))


def _json(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


def _tracked() -> Iterable[Table]:
    special = ("policy_revision", audit_log.name)
    return [table for table in metadata.sorted_tables if "revision" in table.c and table.name not in special]
