"""What must still be said to Redis: said again, by tasks of our own, until it has been heard.

A settlement or a release whose answer did not come may have been carried out or not; the scripts are idempotent, so it
is simply said again. It survives the cancellation of the request that it belongs to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from redis.exceptions import ResponseError

from app.storage.redis import RedisDown, RedisStore

AGAIN_SECONDS = 0.05  # between two attempts on a connection that comes and goes
REFUSED_SECONDS = 1.0

_logger = structlog.get_logger()


class Unheard:
    """What has been said and not yet been heard; its length is how much that is."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def say(self, once: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Say this until it is heard; `once` says it one time and raises RedisDown or ResponseError when it was not."""
        task = asyncio.create_task(self._until_heard(once))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self, seconds: float) -> None:
        """Wait at most so long for what is left."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def _until_heard(self, once: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._store.connected()
            try:
                await once()
            except RedisDown:
                await asyncio.sleep(AGAIN_SECONDS)
            except ResponseError as exc:  # out of memory, a script that was killed: it may pass
                _logger.warning("redis_refuses", error=str(exc)[:200])
                await asyncio.sleep(REFUSED_SECONDS)
            else:
                return
