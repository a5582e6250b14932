"""How a change of keys, routes or adapters reaches every gateway at once: a revision in Redis, and a message about it.

The revision is raised before a change is confirmed and before any gateway decides by it (`PolicyReader`), and every
call asks for it in the round trip of its reservation. So once anyone can have seen a change, no call that begins later
is decided without it, in whatever process: a slow poll, a lost message or a gateway that died between its commit and
its announcement cannot make an answer late. The message only saves the first call from waiting for the read.

Fail mode: open. While Redis is away gateways poll SQL twice a second; while SQL cannot be read, or answers a known
change too slowly, the last known policy serves. An unknown key is never refused on a guess: that is 503.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import structlog
from redis.exceptions import ResponseError
from sqlalchemy.exc import SQLAlchemyError

from app.errors import Unavailable
from app.storage.policy import PolicyReader
from app.storage.redis import RedisDown, RedisStore, Script

CHANNEL = "tg:policy"
REVISION = "tg:policy:revision"
UNSURE = "Keys cannot be checked right now; try again shortly."
CATCH_UP_SECONDS = 5.0  # a call waits so long for a change that it knows of; then the last known policy serves
FRESH_POLLS = 3  # a snapshot read within so many polls is not behind by anything a caller could know of
# KEYS 1 the revision   ARGV 1 ours  2 the channel. Of several gateways that find a change the first one tells of it.
_RAISE = Script("""
if tonumber(redis.call('GET', KEYS[1]) or '-1') >= tonumber(ARGV[1]) then return end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('PUBLISH', ARGV[2], ARGV[1])
""")
# KEYS 1 the revision   ARGV 1 one that SQL does not have  2 the newest that it has
_LOWER = Script("if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) end")
_logger = structlog.get_logger()


async def announce(store: RedisStore, revision: int) -> None:
    """Raise the revision that all gateways compare theirs with, and wake them."""
    try:
        await store.run(_RAISE, [REVISION], [revision, CHANNEL])
    except (RedisDown, ResponseError) as exc:
        _logger.warning("change_not_announced", error=type(exc).__name__, then="other gateways poll")


class Announcements:
    """Tells of changes made here and hears of those made elsewhere."""

    def __init__(self, store: RedisStore, policy: PolicyReader, *, poll_seconds: float) -> None:
        self._store = store
        self._policy = policy
        self._fresh_seconds = FRESH_POLLS * poll_seconds
        self._reading: asyncio.Task[None] | None = None
        self._out_of_reach = -1

    async def changed(self) -> None:
        """After an admin change has been committed: take it over here, and tell the others."""
        await self._policy.refresh()
        await announce(self._store, self._policy.revision)

    def ask(self) -> Question:
        """Ask whether the snapshot as it is now is behind. Never waits.

        The question leaves with the other commands of this turn, one for all calls of the turn.
        """
        return Question(self, self._policy.revision, self._store.read_together("GET", REVISION))

    def is_in_reach(self, announced: int) -> bool:
        """Whether reading is worth a call's while: this revision has not been waited for in vain before."""
        return announced != self._out_of_reach

    async def caught_up(self, announced: int, since: int) -> bool:
        """Read what was announced; whether the snapshot is newer than `since` then. Never raises.

        What could not be read within the time is left to the poll: calls that come later do not wait for it.
        """
        if self.is_in_reach(announced):
            try:
                async with asyncio.timeout(CATCH_UP_SECONDS):
                    await self._catch_up(announced)
            except (Unavailable, TimeoutError) as exc:
                self._out_of_reach = announced
                _logger.warning("policy_behind", error=type(exc).__name__, then="the last known policy serves")
        return self._policy.revision > since

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
        """Read SQL: one read at a time for all who wait, so that a flood of calls cannot become one of queries.

        A read that was under way may have begun too early; the one after it has not. A revision that SQL does not have
        even then was announced before SQL went back to an older state: it is set right, for it hides all later ones.
        """
        for _ in range(2):
            if self._policy.revision >= revision:
                return
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._policy.refresh())
                self._reading.add_done_callback(_seen)
            try:
                await asyncio.shield(self._reading)
            except (SQLAlchemyError, OSError) as exc:
                raise Unavailable(UNSURE) from exc
        if self._policy.revision < revision:
            _logger.warning("revision_not_in_sql", announced=revision, newest=self._policy.revision)
            with suppress(RedisDown, ResponseError):
                await self._store.run(_LOWER, [REVISION], [revision, self._policy.revision])

    async def listen(self) -> None:
        """Wake the policy's reader at every announcement and after every reconnection, for ever."""
        async with self._store.subscribe(CHANNEL) as messages:
            async for message in messages:
                self._policy.wake()
                await asyncio.sleep(0)
                if not message:  # Redis may have come back without the revision
                    await self._store.connected()
                    await announce(self._store, self._policy.revision)


class Question:
    """One call's question whether the policy that it is decided by is behind; implements `app.interfaces.News`."""

    __slots__ = ("_announcements", "_revision", "_sent")

    def __init__(self, announcements: Announcements, revision: int, sent: asyncio.Future[bytes | None]) -> None:
        self._announcements = announcements
        self._revision = revision
        self._sent = sent

    def is_behind(self) -> bool:
        """Whether it was, or that is not known yet; without waiting, for what was asked later has been answered."""
        if not self._sent.done():
            return True
        if self._sent.cancelled() or self._sent.exception() is not None:
            return False
        announced = self._announced(self._sent.result())
        return announced > self._revision and self._announcements.is_in_reach(announced)

    async def missed(self) -> bool:
        """Read what was missed; whether there was something. False when it cannot be told: the last known serves."""
        try:
            announced = self._announced(await asyncio.shield(self._sent))
        except (RedisDown, ResponseError):
            return False
        return announced > self._revision and await self._announcements.caught_up(announced, self._revision)

    def _announced(self, answer: bytes | None) -> int:
        return -1 if answer is None else int(answer)


def _seen(sent: asyncio.Future[Any]) -> None:
    """A failure is looked at even when the call has left meanwhile."""
    if not sent.cancelled():
        sent.exception()
