"""Redis on the request path: concurrent requests' commands share pipelines, and slow counts as down.

Everything asked in one turn of the event loop goes out as one non-transactional pipeline, run by the store's own task.
A caller that is cancelled only stops waiting: the connection is never left in the middle of a reply, so one tenant's
answer cannot reach another (redis-py CVE-2023-28858 was that). The client never retries: a script may have run although
its answer was lost, and callers are idempotent instead. After several timeouts in a row the store fails at once for a
short while and then probes again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

Argument = str | bytes | int | float

FAILURES_TO_OPEN = 3
OPEN_SECONDS = 0.5
MAX_BATCH = 256
RECONNECT_SECONDS = 0.2


class RedisDown(Exception):
    """Redis did not answer in time, or cannot be reached; whether the command ran is unknown."""


class Script:
    """A Lua script and its SHA-1, by which Redis knows it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha1 = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class RedisStore:
    """A batching client; build it with `RedisStore.connect`."""

    def __init__(
        self,
        client: Redis,
        *,
        operation_timeout_seconds: float,
        on_error: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._timeout = operation_timeout_seconds
        self._on_error = on_error
        self._clock = clock
        self._waiting: list[tuple[tuple[Argument, ...], asyncio.Future[Any]]] = []
        self._flushes: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._open_until = 0.0

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        url: str,
        *,
        operation_timeout_seconds: float = 0.05,
        on_error: Callable[[str], None] = lambda _: None,
    ) -> AsyncIterator[RedisStore]:
        """A store for `redis://`, `rediss://` or `unix://` addresses; connects when first used."""
        client = Redis.from_url(
            url,
            socket_timeout=operation_timeout_seconds,
            socket_connect_timeout=max(operation_timeout_seconds, 0.05),
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
        )
        store = cls(client, operation_timeout_seconds=operation_timeout_seconds, on_error=on_error)
        try:
            yield store
        finally:
            await store.close()

    async def close(self) -> None:
        """Let running pipelines end, then close the connections."""
        if self._flushes:
            await asyncio.wait(self._flushes, timeout=1)
        await self._client.aclose()

    async def run(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Argument]) -> Any:
        """Run a script by its hash; loads it where Redis does not know it yet. Raises RedisDown."""
        try:
            return await self.command("EVALSHA", script.sha1, len(keys), *keys, *args)
        except NoScriptError:
            return await self.command("EVAL", script.source, len(keys), *keys, *args)

    async def get(self, key: str | bytes) -> bytes | None:
        """The value of a key, or None."""
        value: bytes | None = await self.command("GET", key)
        return value

    async def publish(self, channel: str, payload: bytes) -> None:
        """Tell every subscriber of a channel."""
        await self.command("PUBLISH", channel, payload)

    async def ping(self) -> None:
        """Return when Redis answers; raises RedisDown."""
        await self.command("PING")

    def command(self, *args: Argument) -> asyncio.Future[Any]:
        """One command, sent with all others of this turn of the event loop. Raises RedisDown or ResponseError."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        if self._clock() < self._open_until:
            answer.set_exception(RedisDown("Redis is down; it is asked again in a moment"))
            return answer
        self._waiting.append((args, answer))
        if len(self._waiting) == 1:
            loop.call_soon(self._flush)
        return answer

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Messages of a channel, on a connection of its own; `b""` after each (re)connection: some may be missed."""
        listening = self._listen(channel)
        try:
            yield listening
        finally:
            await listening.aclose()

    async def _listen(self, channel: str) -> Any:
        while True:
            pubsub = self._client.pubsub(ignore_subscribe_messages=True)
            try:
                await pubsub.subscribe(channel)
                yield b""
                while True:
                    message = await pubsub.get_message(timeout=1.0)
                    if message is not None:
                        yield message["data"]
            except (RedisError, OSError):
                await asyncio.sleep(RECONNECT_SECONDS)
            finally:
                with suppress(RedisError, OSError):
                    await pubsub.aclose()  # type: ignore[no-untyped-call]

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), MAX_BATCH):
            task = asyncio.create_task(self._send(waiting[start : start + MAX_BATCH]))
            self._flushes.add(task)
            task.add_done_callback(self._flushes.discard)

    async def _send(self, batch: list[tuple[tuple[Argument, ...], asyncio.Future[Any]]]) -> None:
        try:
            async with asyncio.timeout(self._timeout * 2):
                if len(batch) == 1:
                    replies = [await self._one(batch[0][0])]
                else:
                    pipeline = self._client.pipeline(transaction=False)
                    for args, _ in batch:
                        pipeline.execute_command(*args)
                    replies = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError, TimeoutError) as exc:
            self._failed(exc)
            down = RedisDown(f"Redis did not answer: {type(exc).__name__}")
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(down)
            return
        self._failures = 0
        for (_, answer), reply in zip(batch, replies, strict=True):
            if answer.done():
                continue
            if isinstance(reply, Exception):
                answer.set_exception(reply)
            else:
                answer.set_result(reply)

    async def _one(self, args: tuple[Argument, ...]) -> Any:
        try:
            return await self._client.execute_command(*args)  # type: ignore[no-untyped-call]
        except ResponseError as exc:
            return exc

    def _failed(self, exc: BaseException) -> None:
        self._on_error(type(exc).__name__)
        self._failures += 1
        refused = isinstance(exc, RedisConnectionError)
        if self._failures >= FAILURES_TO_OPEN or refused:
            self._open_until = self._clock() + OPEN_SECONDS
