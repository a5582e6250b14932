"""Looks into the stores every so often, so that a scrape knows at once what waits there.

Every gateway looks for itself; what it asks is answered by an index. Fail mode: what could not be read is not known,
and has no series until it can be read again.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import structlog
from redis.exceptions import ResponseError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.errors import Unavailable
from app.observability.surveyed import Surveyed
from app.storage import outbox
from app.storage.redis import RedisDown
from app.storage.tuning.census import census

EVERY_SECONDS = 15.0  # as often as Prometheus usually asks
PROMISES_EVERY = 4  # looks into SQL for each into Redis, which reads a field for each tenant and route
_logger = structlog.get_logger()

PromiseCensus = Callable[[], Awaitable[Mapping[tuple[str, str], int]]]


class Survey:
    """One per gateway process; `seen` is what the last looks have found."""

    def __init__(
        self,
        engine: AsyncEngine,
        promises: PromiseCensus,
        *,
        every_seconds: float = EVERY_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.seen = Surveyed()
        self._engine = engine
        self._promises = promises
        self._every = every_seconds
        self._clock = clock

    async def run(self) -> None:
        """Look for ever; an outage is waited out."""
        for number in itertools.count():
            await self.look_at_work()
            if number % PROMISES_EVERY == 0:
                await self.look_at_promises()
            await asyncio.sleep(self._every)

    async def look_at_work(self) -> None:
        """Count training jobs and webhook deliveries."""
        now = self._clock()
        try:
            async with self._engine.connect() as connection:
                jobs = await census(connection, now=now)
                waiting = await outbox.backlog(connection, now=now)
        except (SQLAlchemyError, OSError) as exc:
            self.seen = Surveyed(promises=self.seen.promises)
            _logger.warning("work_not_counted", error=type(exc).__name__)
            return
        self.seen = Surveyed(
            jobs=jobs.by_state,
            oldest_queued_seconds=jobs.oldest_queued_seconds,
            deliveries=waiting.deliveries,
            deliveries_late_seconds=waiting.late_seconds,
            promises=self.seen.promises,
        )

    async def look_at_promises(self) -> None:
        """Count how semantic caches stand."""
        try:
            promises = await self._promises()
        except (RedisDown, ResponseError, Unavailable) as exc:
            self.seen = replace(self.seen, promises=None)
            _logger.warning("promises_not_counted", error=type(exc).__name__)
            return
        self.seen = replace(self.seen, promises=promises)
