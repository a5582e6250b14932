"""Redis on the request path: one connection that all requests share, and slow counts as down.

A server that leaves one command unanswered for the operation timeout is treated as gone: everything asked of it fails
at once, and so does every new command until a new connection has answered a PING in time. So a dead or slow Redis costs
a request one timeout at most, and nothing once it is known. The client never retries: a script may have run although
its answer was lost, and callers are idempotent instead. `on_error` is told the class of what ended or refused a
connection, and of every command that Redis refuses (`OutOfMemoryError` at `maxmemory`).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from app.storage.redis_connection import (
    CONNECT_SECONDS,
    Address,
    Argument,
    Connection,
    RedisDown,
    RedisUnreached,
    connect,
)

__all__ = ["RedisDown", "RedisStore", "RedisUnreached", "Script"]

RECONNECT_SECONDS = 0.1
LISTEN_SECONDS = 1.0


class Script:
    """A Lua script and its SHA-1, by which Redis knows it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha1 = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class RedisStore:
    """The connected store; build it with `RedisStore.connect`."""

    def __init__(self, url: str, *, operation_timeout_seconds: float, on_error: Callable[[str], None]) -> None:
        self._url = url
        self._address = Address.of(url)
        self._timeout = operation_timeout_seconds
        self._on_error = on_error
        self._connection: Connection | None = None
        self._tried = asyncio.Event()
        self._up = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        url: str,
        *,
        operation_timeout_seconds: float = 0.05,
        on_error: Callable[[str], None] = lambda _: None,
    ) -> AsyncIterator[RedisStore]:
        """A store for `redis://`, `rediss://` or `unix://` addresses; a Redis that is away is waited for in use."""
        store = cls(url, operation_timeout_seconds=operation_timeout_seconds, on_error=on_error)
        keeping = asyncio.create_task(store._keep_connected())
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(store._tried.wait(), CONNECT_SECONDS)
            yield store
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping

    async def run(
        self, script: Script, keys: Sequence[str | bytes], args: Sequence[Argument], *, impatient: bool = False
    ) -> Any:
        """Run a script by its hash; loads it where Redis does not know it yet. Raises RedisDown."""
        try:
            return await self.send(script, keys, args, impatient=impatient)
        except NoScriptError:
            return await self.command("EVAL", script.source, len(keys), *keys, *args, impatient=impatient)

    def send(
        self, script: Script, keys: Sequence[str | bytes], args: Sequence[Argument], *, impatient: bool = False
    ) -> asyncio.Future[Any]:
        """Have a script sent by its hash; the reply is NoScriptError where Redis does not know it yet."""
        return self.command("EVALSHA", script.sha1, len(keys), *keys, *args, impatient=impatient)

    async def get(self, key: str | bytes) -> bytes | None:
        """The value of a key, or None."""
        value: bytes | None = await self.command("GET", key)
        return value

    async def publish(self, channel: str, payload: bytes) -> None:
        """Tell every subscriber of a channel."""
        await self.command("PUBLISH", channel, payload)

    async def connected(self) -> None:
        """Return as soon as Redis can be asked."""
        await self._up.wait()

    async def ping(self) -> None:
        """Return when Redis answers; raises RedisDown."""
        await self.command("PING")

    def command(self, *args: Argument, impatient: bool = False) -> asyncio.Future[Any]:
        """One command, sent with all others of this turn of the event loop. Raises RedisDown or ResponseError.

        `impatient` is for what somebody else says again: it waits half as long, and means no harm to the connection.
        """
        return _unreached() if self._connection is None else self._connection.ask(*args, impatient=impatient)

    def read_together(self, *args: Argument) -> asyncio.Future[Any]:
        """One read for all who ask the same in this turn of the event loop, before it is sent; wait under a shield.

        Raises RedisDown or ResponseError.
        """
        return _unreached() if self._connection is None else self._connection.ask_together(*args)

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Messages of a channel, on a connection of its own; `b""` after each (re)connection: some may be missed."""
        options = {} if self._url.startswith("unix:") else {"socket_keepalive": True}  # a unix socket has none
        client = Redis.from_url(self._url, socket_connect_timeout=CONNECT_SECONDS, **options)
        listening = _listen(client, channel)
        try:
            yield listening
        finally:
            await listening.aclose()
            await client.aclose()

    async def _keep_connected(self) -> None:
        while True:
            try:
                connection = await connect(self._address, self._timeout)
            except (RedisDown, ResponseError, OSError) as exc:
                self._on_error(type(exc).__name__)
                self._tried.set()
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            connection.on_refusal = self._on_error
            self._connection = connection
            self._tried.set()
            self._up.set()
            try:
                self._on_error(await asyncio.shield(connection.lost))
            finally:
                self._connection = None
                self._up.clear()
                await connection.close()


def _unreached() -> asyncio.Future[Any]:
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    answer.set_exception(RedisUnreached("Redis is down; it is asked again in a moment"))
    answer.exception()  # nobody has to look at it
    return answer


async def _listen(client: Redis, channel: str) -> Any:
    while True:
        pubsub = client.pubsub(ignore_subscribe_messages=True)
        try:
            await pubsub.subscribe(channel)
            yield b""
            while True:
                message = await pubsub.get_message(timeout=LISTEN_SECONDS)
                if message is not None:
                    yield message["data"]
        except (RedisError, OSError):
            await asyncio.sleep(RECONNECT_SECONDS)
        finally:
            with suppress(RedisError, OSError):
                await pubsub.aclose()  # type: ignore[no-untyped-call]
