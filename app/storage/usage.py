"""The ledger in SQL: entries come in once each, and are summed by any of their dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter, itemgetter
from typing import Any

from sqlalchemy import Select, case, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine

from app.storage.tables import ledger
from app.types import LedgerEntry

DAY_SECONDS = 86_400
_FIELDS = LedgerEntry.__struct_fields__
_VALUES = attrgetter(*_FIELDS)
GROUPS = {
    "tenant": ledger.c.tenant_id,
    "team": ledger.c.team_id,
    "key": ledger.c.key_id,
    "user": ledger.c.user_hash,
    "route": ledger.c.route,
    "variant": ledger.c.variant,
    "upstream": ledger.c.upstream,
    "model": ledger.c.model,
    "adapter_version": ledger.c.adapter_version,
    "outcome": ledger.c.outcome,
    "day": ledger.c.day,
}


async def append_ledger(engine: AsyncEngine, entries: Sequence[tuple[str, LedgerEntry]]) -> None:
    """Insert entries by their unique id; those that are there already stay as they are.

    The statement is SQLAlchemy's, its rows go straight to the driver: this runs once for every request, and its
    conversion of each row would cost as much as the rest of the settlement.
    """
    if not entries:
        return
    insert: Any = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert
    columns = ("entry_id", "day", *_FIELDS)
    statement = insert(ledger).on_conflict_do_nothing().compile(dialect=engine.dialect, column_keys=columns)
    in_order = itemgetter(*map(columns.index, statement.positiontup))
    rows = [in_order((entry_id, _day(entry.started_at), *_VALUES(entry))) for entry_id, entry in entries]
    async with engine.begin() as connection:
        await connection.exec_driver_sql(str(statement), rows)


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
        *(func.sum(ledger.c[name]).label(name) for name in SUMS),
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


SUMS = (
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cost_microusd",
    "saved_microusd",
    "byok_microusd",
)


def _plain(name: str, value: Any) -> Any:
    return int(value) if name in SUMS or name == "requests" else value


def _day(instant: float) -> str:
    return _date(int(instant // DAY_SECONDS))


@lru_cache(maxsize=8)  # nearly all rows of a batch are of one day
def _date(day: int) -> str:
    return datetime.fromtimestamp(day * DAY_SECONDS, tz=UTC).date().isoformat()
