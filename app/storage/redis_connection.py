"""One connection to Redis: commands go out as they come, replies come back in the same order.

A caller that is cancelled leaves its place in the queue, and the reply that belongs there is thrown away; so one
tenant's answer cannot reach another (redis-py CVE-2023-28858 was that). What breaks the order ends the connection:
a reply that is late, bytes that are no reply, a closed socket. A server that is slow twice in a row is late as well,
so that one request, which asks a few times, does not wait that often.

Time is counted in ticks of the event loop, not by the clock: after a stall of our own process the replies that wait in
the socket are read before the next tick, so a busy gateway is not mistaken for a slow Redis.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import hiredis
from redis.asyncio.connection import parse_url
from redis.exceptions import NoScriptError, OutOfMemoryError, ResponseError

Argument = str | bytes | int | float

TICKS = 10  # a reply may take so many; more of them measure finer and cost more
SLOW_TICKS = 5  # one that took so many was slow
SLOW_IN_A_ROW = 2
CONNECT_SECONDS = 1.0
_FULL = "OOM command not allowed"  # in front, or, from a script in an older Redis, within
_UNREADY = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN")  # an answer, but not of a server that can serve us


class RedisDown(Exception):
    """Redis did not answer in time, or cannot be reached; whether the command ran is unknown."""


class RedisUnreached(RedisDown):
    """There is no connection right now: the command was not sent, so it did not run."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where Redis is, from a `redis://`, `rediss://` or `unix://` URL."""

    host: str
    port: int
    path: str | None
    tls: ssl.SSLContext | None
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, url: str) -> Address:
        """Raises ValueError for what is no Redis URL."""
        options: dict[str, Any] = dict(parse_url(url))
        tls = ssl.create_default_context(cafile=options.get("ssl_ca_certs")) if url.startswith("rediss://") else None
        return cls(
            host=options.get("host") or "localhost",
            port=int(options.get("port") or 6379),
            path=options.get("path"),
            tls=tls,
            database=int(options.get("db") or 0),
            username=options.get("username"),
            password=options.get("password"),
        )


class Connection(asyncio.Protocol):
    """A connection in use; `lost` is done when it can be used no more, with the name of what ended it.

    `on_refusal` is told the class of every error that Redis replies, but for a script that it does not know yet.
    """

    def __init__(self, timeout_seconds: float) -> None:
        self.on_refusal: Callable[[str], None] = lambda _: None
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = self._loop.create_future()
        self._closed = asyncio.Event()
        self._tick_seconds = timeout_seconds / TICKS
        self._reader = hiredis.Reader(replyError=self._refusal)
        self._asked: deque[tuple[asyncio.Future[Any], int]] = deque()
        self._impatient: deque[tuple[asyncio.Future[Any], int]] = deque()
        self._unsent: list[bytes] = []
        self._together: dict[tuple[Argument, ...], asyncio.Future[Any]] = {}  # not sent yet, and open for more to ask
        self._now = 0
        self._slow = 0
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def ask(self, *args: Argument, impatient: bool = False) -> asyncio.Future[Any]:
        """The reply to one command: a value, a ResponseError, or RedisDown.

        An impatient caller hears RedisDown as soon as the reply is slow; the connection goes on.
        """
        answer: asyncio.Future[Any] = self._loop.create_future()
        if self.lost.done():
            answer.set_exception(RedisUnreached("the connection to Redis was lost"))
            return answer
        self._asked.append((answer, self._now + TICKS))
        if impatient:
            self._impatient.append((answer, self._now + SLOW_TICKS))
        self._unsent.append(hiredis.pack_command(args))  # type: ignore[arg-type]  # its stub knows one argument only
        if len(self._unsent) == 1:
            self._loop.call_soon(self._send)
        if self._timer is None:
            self._timer = self._loop.call_later(self._tick_seconds, self._tick)
        return answer

    def ask_together(self, *args: Argument) -> asyncio.Future[Any]:
        """The reply to a read, shared by all who ask the same before it is sent; wait for it under a shield."""
        answer = self._together.get(args)
        if answer is None:
            answer = self._together[args] = self.ask(*args)
            answer.add_done_callback(_seen)
        return answer

    def end(self, reason: str) -> None:
        """Close at once; everything still asked fails with RedisDown."""
        if self.lost.done():
            return
        self.lost.set_result(reason)
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        asked, self._asked = self._asked, deque()
        for answer, _ in asked:
            if not answer.done():
                answer.set_exception(RedisDown(f"Redis did not answer: {reason}"))

    async def close(self) -> None:
        """End, and wait until the socket is gone."""
        self.end("Closed")
        if self._transport is not None:
            await self._closed.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open (asyncio calls this)."""
        self._transport = cast(asyncio.Transport, transport)  # a stream socket's; uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        """Bytes have come (asyncio calls this): give each whole reply to the caller whose turn it is."""
        try:
            self._reader.feed(data)
            due = None
            while (reply := self._reader.gets()) is not False:
                answer, deadline = self._asked.popleft()
                due = due or deadline
                _give(answer, reply)
        except (hiredis.ProtocolError, IndexError):
            self.end("ProtocolError")
            return
        if due is not None:
            self._slow = self._slow + 1 if due <= self._now + TICKS - SLOW_TICKS else 0
            if self._slow >= SLOW_IN_A_ROW:
                self.end("Slow")

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed (asyncio calls this)."""
        self.end(type(exc).__name__ if exc is not None else "ConnectionClosed")
        self._closed.set()

    def _refusal(self, text: str) -> Exception:
        error = _error(text)
        if not isinstance(error, NoScriptError):
            self.on_refusal(type(error).__name__)
        return error

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        self._together.clear()
        if self._transport is not None and not self.lost.done():
            self._transport.write(b"".join(unsent))

    def _tick(self) -> None:
        self._timer = None
        self._now += 1
        while self._impatient and (self._impatient[0][1] <= self._now or self._impatient[0][0].done()):
            _give(self._impatient.popleft()[0], RedisDown("Redis is slow"))
        if not self._asked:
            return
        if self._asked[0][1] <= self._now:
            self.end("Timeout")
        else:
            self._timer = self._loop.call_later(self._tick_seconds, self._tick)


async def connect(address: Address, timeout_seconds: float) -> Connection:
    """A connection that has answered in time, and not slowly; raises RedisDown, OSError or ResponseError."""
    loop = asyncio.get_running_loop()

    def protocol() -> Connection:
        return Connection(timeout_seconds)

    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            if address.path is not None:
                _, connection = await loop.create_unix_connection(protocol, address.path)
            else:
                _, connection = await loop.create_connection(protocol, address.host, address.port, ssl=address.tls)
    except TimeoutError:
        raise RedisDown("Redis did not accept a connection in time") from None
    try:
        if address.password is not None:
            names = () if address.username is None else (address.username,)
            await connection.ask("AUTH", *names, address.password)
        if address.database:
            await connection.ask("SELECT", address.database)
        for _ in range(SLOW_IN_A_ROW):
            await connection.ask("PING")
    except BaseException:
        await connection.close()
        raise
    return connection


def _seen(answer: asyncio.Future[Any]) -> None:
    """A failure is looked at even when all who asked have left meanwhile."""
    if not answer.cancelled():
        answer.exception()


def _give(answer: asyncio.Future[Any], reply: Any) -> None:
    if answer.done():
        return
    if isinstance(reply, Exception):
        answer.set_exception(reply)
    else:
        answer.set_result(reply)


def _error(text: str) -> Exception:
    if text.startswith("NOSCRIPT"):
        return NoScriptError(text)
    if text.startswith(_UNREADY):
        return RedisDown(text.partition(" ")[0])
    return OutOfMemoryError(text) if _FULL in text else ResponseError(text)
