"""Keeps one snapshot of the policy fresh, by polling SQL for what is newer than the last revision read.

Every admin change stamps its rows with the next revision in its own transaction, and the counter's row lock makes
revisions commit in order; so "everything newer than mine" misses nothing. While SQL is away the last known policy
serves, up to a maximum age; after that nothing is decided any more (503), never "invalid key".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import structlog
from sqlalchemy import Table, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.errors import Unavailable
from app.storage.policy.callers import Unseal, sealed
from app.storage.policy.snapshot import PolicySnapshot
from app.storage.tables import policy_revision
from app.types import AdapterVersion

_ONE_INSTANT = {"postgresql": "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "sqlite": "BEGIN"}
_logger = structlog.get_logger()


async def keep_to_oneself(revision: int) -> None:
    """Tells nobody."""


class PolicyReader:
    """Keeps one snapshot fresh.

    `tell` is awaited with every new revision before anything is decided by it. So whoever has seen a change (in an
    answer, or confirmed) can be sure that every other gateway that asks hears of it, whichever process found it first
    and even if the one that made it has died.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        poll_seconds: float = 0.5,
        max_age_seconds: float = 900.0,
        clock: Callable[[], float] = time.monotonic,
        unseal: Unseal = sealed,
        tell: Callable[[int], Awaitable[None]] = keep_to_oneself,
    ) -> None:
        self._engine = engine
        self._tell = tell
        self._poll_seconds = poll_seconds
        self._max_age_seconds = max_age_seconds
        self._clock = clock
        self._snapshot = PolicySnapshot(unseal)
        self._read_at: float | None = None
        self._refreshing = asyncio.Lock()
        self._woken = asyncio.Event()
        self.revision = -1

    @property
    def age_seconds(self) -> float:
        """Since SQL was last read; infinite before the first time."""
        return float("inf") if self._read_at is None else self._clock() - self._read_at

    def current(self) -> PolicySnapshot:
        """The snapshot; raises Unavailable when it is too old to decide by."""
        if self._read_at is None or self._clock() - self._read_at > self._max_age_seconds:
            raise Unavailable("Keys and routes cannot be read right now; try again shortly.", retry_after_seconds=5)
        return self._snapshot

    def tenant_ids(self) -> list[str]:
        """Every tenant, also when the snapshot is old."""
        return self._snapshot.tenant_ids()

    def served(self) -> dict[str, AdapterVersion] | None:
        """Every version that an alias means now, by id; None while the snapshot is too old to act by."""
        stale = self._read_at is None or self._clock() - self._read_at > self._max_age_seconds
        return None if stale else self._snapshot.served()

    def wake(self) -> None:
        """Something has changed: read now rather than at the next poll."""
        self._woken.set()

    async def refresh(self) -> None:
        """Read what is newer than the snapshot, as of one instant; raises what SQL raises."""
        async with self._refreshing:
            newest, changed = await self._read()
            if newest > self.revision:
                await self._tell(newest)
            for table, row in changed:
                self._snapshot.apply(table, row)
            self.revision = newest
            self._read_at = self._clock()

    async def _read(self) -> tuple[int, Sequence[tuple[Table, Mapping[str, Any]]]]:
        changed: list[tuple[Table, Mapping[str, Any]]] = []
        async with self._engine.connect() as connection:
            await connection.exec_driver_sql(_ONE_INSTANT[connection.dialect.name])
            newest = int((await connection.execute(select(policy_revision.c.revision))).scalar_one())
            if newest > self.revision:
                for table in self._snapshot.tables:
                    query = select(table).where(table.c.revision > self.revision)
                    changed += [(table, dict(row)) for row in (await connection.execute(query)).mappings()]
        return newest, changed

    async def run(self) -> None:
        """Refresh for ever: at every poll and whenever woken; an outage is waited out."""
        while True:
            try:
                async with asyncio.timeout(self._poll_seconds):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            try:
                await self.refresh()
            except (SQLAlchemyError, OSError) as exc:
                _logger.warning("policy_not_read", error=type(exc).__name__, age_seconds=round(self.age_seconds))
