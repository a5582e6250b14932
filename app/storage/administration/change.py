"""One administrative change: a transaction that begins by taking the next policy revision.

The revision's row lock is held until the commit, so changes happen one after another in the order of their revisions:
a reader that asks for everything newer than its own revision misses nothing, and whatever a change has checked (that a
name is free, that a tenant is there) still holds when it commits.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Column, Select, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.errors import Unavailable
from app.storage.tables import LIMITS, policy_revision
from app.types import Limits

Row = Mapping[Any, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Change:
    """A transaction that holds the revision which its rows are stamped with; `now` is the one instant of the change."""

    connection: AsyncConnection
    revision: int
    now: float

    def new(self) -> dict[str, Any]:
        """What every new row carries."""
        return {"revision": self.revision, "deleted": False, "created_at": self.now}


@asynccontextmanager
async def changing(engine: AsyncEngine, *, clock: Callable[[], float] = time.time) -> AsyncIterator[Change]:
    """Commit everything done inside as one change, or nothing; raises Unavailable while SQL is away."""
    with outage():
        async with engine.begin() as connection:
            yield Change(connection, await next_revision(connection), clock())


async def next_revision(connection: AsyncConnection) -> int:
    """Take it for this transaction: no other has one until this one ends, and a rollback gives it back."""
    bump = update(policy_revision).values(revision=policy_revision.c.revision + 1)
    return int((await connection.execute(bump.returning(policy_revision.c.revision))).scalar_one())


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection to look things up by; raises Unavailable while SQL is away."""
    with outage():
        async with engine.connect() as connection:
            yield connection


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a listing, and whether more follows its last item."""

    items: Sequence[T]
    has_more: bool


async def page(
    connection: AsyncConnection,
    query: Select[Any],
    key: Column[str],
    make: Callable[[Row], T],
    *,
    after: str | None,
    limit: int,
) -> Page[T]:
    """At most `limit` rows of the query in the order of `key`, from behind `after` on."""
    if after is not None:
        query = query.where(key > after)
    rows = (await connection.execute(query.order_by(key).limit(limit + 1))).mappings().all()
    return Page([make(row) for row in rows[:limit]], has_more=len(rows) > limit)


def limits_of(row: Row) -> Limits:
    """The limits in a row."""
    return Limits(**{name: row[name] for name in LIMITS})


def limit_columns(limits: Limits) -> dict[str, Any]:
    """The columns of these limits."""
    return {name: getattr(limits, name) for name in LIMITS}


@contextmanager
def outage() -> Iterator[None]:
    """Say Unavailable for a database that is away or busy; what is wrong with a statement stays what it is."""
    try:
        yield
    except (IntegrityError, DataError, ProgrammingError):
        raise
    except (DBAPIError, PoolTimeout, OSError) as exc:
        raise Unavailable(
            "The database does not answer. Try again shortly; look first whether a change was made."
        ) from exc
