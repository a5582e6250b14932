"""The ledger in SQL: entries come in once each, and are summed by any of their dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Select, case, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine

from app.storage.tables import ledger
from app.types import LedgerEntry

GROUPS = {
    "tenant": ledger.c.tenant_id,
    "team": ledger.c.team_id,
    "key": ledger.c.key_id,
    "user": ledger.c.user_hash,
    "route": ledger.c.route,
    "variant": ledger.c.variant,
    "model": ledger.c.model,
    "adapter_version": ledger.c.adapter_version,
    "outcome": ledger.c.outcome,
    "day": ledger.c.day,
}
CHUNK = 100  # rows an insert; SQLite bounds the number of bound values


async def append_ledger(engine: AsyncEngine, entries: Sequence[tuple[str, LedgerEntry]]) -> None:
    """Insert entries by their unique id; those that are there already stay as they are."""
    rows = [_row(entry_id, entry) for entry_id, entry in entries]
    insert: Any = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert
    async with engine.begin() as connection:
        for start in range(0, len(rows), CHUNK):
            await connection.execute(insert(ledger).on_conflict_do_nothing(), rows[start : start + CHUNK])


async def usage(
    engine: AsyncEngine,
    *,
    group_by: Sequence[str],
    where: dict[str, str],
    since: float | None = None,
    until: float | None = None,
) -> list[dict[str, Any]]:
    """Sums per group, sorted by the groups; `where` takes the same names as `group_by`."""
    groups = [GROUPS[name].label(name) for name in group_by]
    query: Select[Any] = select(
        *groups,
        func.sum(case((ledger.c.adjustment, 0), else_=1)).label("requests"),
        *(func.sum(ledger.c[name]).label(name) for name in _SUMS),
    )
    for name, value in where.items():
        query = query.where(GROUPS[name] == value)
    if since is not None:
        query = query.where(ledger.c.started_at >= since)
    if until is not None:
        query = query.where(ledger.c.started_at < until)
    query = query.group_by(*groups).order_by(*groups)
    async with engine.connect() as connection:
        rows = (await connection.execute(query)).mappings().all()
    return [{name: _plain(name, value) for name, value in row.items()} for row in rows if row["requests"] is not None]


_SUMS = ("prompt_tokens", "completion_tokens", "cached_tokens", "cost_microusd", "saved_microusd")


def _plain(name: str, value: Any) -> Any:
    return int(value) if name in _SUMS or name == "requests" else value


def _row(entry_id: str, entry: LedgerEntry) -> dict[str, Any]:
    values = asdict(entry)
    for name in ("operation", "outcome", "cache"):
        values[name] = values[name].value
    day = datetime.fromtimestamp(entry.started_at, tz=UTC).date().isoformat()
    return {"entry_id": entry_id, "day": day, **values}
