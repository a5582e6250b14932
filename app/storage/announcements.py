"""How a change of keys, routes or adapters reaches every gateway at once: a revision in Redis and a message about it.

Redis only hurries: the truth is SQL, which every gateway compares with twice a second anyway. So an announcement that
is lost costs half a second, and while Redis is away a snapshot just read from SQL is still good enough to refuse by.
"""

from __future__ import annotations

import asyncio

import structlog
from redis.exceptions import ResponseError
from sqlalchemy.exc import SQLAlchemyError

from app.errors import Unavailable
from app.storage.policy import PolicyReader
from app.storage.redis import RedisDown, RedisStore, Script

CHANNEL = "tg:policy"
REVISION = "tg:policy:revision"
UNSURE = "Keys cannot be checked right now; try again shortly."
FRESH_POLLS = 3  # a snapshot read within so many polls is not behind by anything a caller could know of
_RAISE = Script("""
if tonumber(redis.call('GET', KEYS[1]) or '-1') < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[1]) end
redis.call('PUBLISH', ARGV[2], ARGV[1])
""")
_logger = structlog.get_logger()


class Announcements:
    """Tells of changes made here and hears of those made elsewhere."""

    def __init__(self, store: RedisStore, policy: PolicyReader, *, poll_seconds: float) -> None:
        self._store = store
        self._policy = policy
        self._fresh_seconds = FRESH_POLLS * poll_seconds
        self._reading: asyncio.Task[None] | None = None

    async def changed(self) -> None:
        """After an admin change has been committed: take it over here, and tell the others."""
        await self._policy.refresh()
        try:
            await self._store.run(_RAISE, [REVISION], [self._policy.revision, CHANNEL])
        except (RedisDown, ResponseError) as exc:
            _logger.warning("change_not_announced", error=type(exc).__name__, then="other gateways poll")

    async def newer(self) -> bool:
        """Whether there was something newer than the snapshot, which is then read; raises Unavailable when unsure."""
        try:
            announced = await self._store.get(REVISION)
        except (RedisDown, ResponseError) as exc:
            if self._policy.age_seconds <= self._fresh_seconds:
                return False
            raise Unavailable(UNSURE) from exc
        if announced is None or int(announced) <= self._policy.revision:
            return False
        await self._catch_up(int(announced))
        return True

    async def _catch_up(self, revision: int) -> None:
        """Read SQL: one read at a time for all who wait, so that a flood of unknown keys cannot become one of queries.

        A read that was under way may have begun too early; the one after it has not. A revision that SQL does not have
        even then was announced by another installation on the same Redis.
        """
        for _ in range(2):
            if self._policy.revision >= revision:
                return
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._policy.refresh())
            try:
                await asyncio.shield(self._reading)
            except (SQLAlchemyError, OSError) as exc:
                raise Unavailable(UNSURE) from exc

    async def listen(self) -> None:
        """Wake the policy's reader at every announcement and after every reconnection, for ever."""
        async with self._store.subscribe(CHANNEL) as messages:
            async for _ in messages:
                self._policy.wake()
                await asyncio.sleep(0)
