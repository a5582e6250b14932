"""Parts of listings by creation time, newest or oldest first, behind the item that was last seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, Table, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import InvalidRequest
from app.storage.administration.change import Page, Row

T = TypeVar("T")


async def by_time(
    connection: AsyncConnection,
    table: Table,
    mine: ColumnElement[bool],
    make: Callable[[Row], T],
    *,
    after: str | None,
    limit: int,
    newest_first: bool = True,
) -> Page[T]:
    """Rows of `table` that are `mine`, by (created_at, id); raises InvalidRequest for an `after` that is not."""
    place = tuple_(table.c.created_at, table.c.id)
    query: Select[Any] = select(table).where(mine)
    if after is not None:
        last = (await connection.execute(select(table.c.created_at).where(mine, table.c.id == after))).scalar()
        if last is None:
            raise InvalidRequest("after: expected the id of an item of this listing.", param="after")
        behind = tuple_(last, after)
        query = query.where(place < behind if newest_first else place > behind)
    columns = (table.c.created_at, table.c.id)
    query = query.order_by(*(column.desc() for column in columns) if newest_first else columns)
    rows = (await connection.execute(query.limit(limit + 1))).mappings().all()
    return Page([make(row) for row in rows[:limit]], has_more=len(rows) > limit)
