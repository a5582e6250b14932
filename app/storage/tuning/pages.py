"""Parts of listings, newest or oldest first, behind the item that was last seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Column, ColumnElement, Select, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import InvalidRequest
from app.storage.administration.change import Page, Row

T = TypeVar("T")


async def part(
    connection: AsyncConnection,
    order: Sequence[Column[Any]],
    mine: ColumnElement[bool],
    make: Callable[[Row], T],
    *,
    after: str | None,
    limit: int,
    newest_first: bool = True,
) -> Page[T]:
    """Rows that are `mine`, by these columns of their table, behind the one whose id is `after`.

    Raises InvalidRequest for an `after` that is none of them.
    """
    table = order[0].table
    query: Select[Any] = select(table).where(mine)
    if after is not None:
        last = (await connection.execute(select(*order).where(mine, table.c.id == after))).one_or_none()
        if last is None:
            raise InvalidRequest("after: expected the id of an item of this listing.", param="after")
        place, seen = tuple_(*order), tuple_(*last)
        query = query.where(place < seen if newest_first else place > seen)
    query = query.order_by(*(column.desc() for column in order) if newest_first else order)
    rows = (await connection.execute(query.limit(limit + 1))).mappings().all()
    return Page([make(row) for row in rows[:limit]], has_more=len(rows) > limit)
