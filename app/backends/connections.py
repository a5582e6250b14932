"""The connections to one upstream address: opened when none is free, kept for a few seconds, the newest used first."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from aiohappyeyeballs import AddrInfoType, start_connection

from app.backends.connection import Connection

KEEP_ALIVE_SECONDS = 4.0  # below uvicorn's (so vLLM's) five: the side that sends must be the one that closes
NAME_SECONDS = 10.0  # so long a name's addresses are good
HAPPY_EYEBALLS_SECONDS = 0.25  # RFC 8305: then the next address is tried beside the first


class Unreached(Exception):
    """No connection could be made; `timed_out` when it took too long."""

    timed_out = False


@dataclass(frozen=True, slots=True)
class Address:
    """Where an upstream is: what its URL says, ready to be used."""

    host: str
    port: int
    secure: bool
    authority: str
    path: str

    @classmethod
    def of(cls, url: str) -> Address:
        """Raises ValueError for what is no http or https URL."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected an http:// or https:// URL")
        secure = parts.scheme == "https"
        host = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode()
        port = parts.port or (443 if secure else 80)
        shown = f"[{host}]" if ":" in host else host
        authority = shown if port == (443 if secure else 80) else f"{shown}:{port}"
        return cls(host, port, secure, authority, quote(parts.path, safe="/%:@!$&'()*+,;=~"))


class Connections:
    """Those to one host and port. There is no upper bound here: admission bounds the calls."""

    def __init__(self, address: Address, tls: Callable[[], ssl.SSLContext]) -> None:
        self._address = address
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._all: set[Connection] = set()
        self._free: dict[Connection, float] = {}  # since when; the newest last
        self._sweeper: asyncio.TimerHandle | None = None
        self._names = asyncio.Lock()
        self._found: Sequence[AddrInfoType] = []
        self._found_until = 0.0
        self._opening = 0
        self._closing = False
        self._none_left = asyncio.Event()

    @property
    def in_use(self) -> bool:
        """Whether any is open, or being opened."""
        return bool(self._all) or self._opening > 0

    async def take(self, timeout_seconds: float) -> Connection:
        """A connection that is free now, else a new one; raises Unreached."""
        oldest = self._loop.time() - KEEP_ALIVE_SECONDS
        while self._free:
            connection, since = self._free.popitem()
            if since > oldest:
                return connection
            connection.abort()
        self._opening += 1
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._connect()
        except (OSError, ValueError) as exc:  # ValueError: a certificate's name that cannot be compared
            error = Unreached(type(exc).__name__)
            error.timed_out = isinstance(exc, TimeoutError)
            raise error from exc
        finally:
            self._opening -= 1

    async def close(self) -> None:
        """Close all of them, and wait until they are."""
        self._closing = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in self._all:
            connection.abort()
        if self._all:
            await self._none_left.wait()

    def made(self, connection: Connection) -> None:
        """It is open."""
        self._all.add(connection)

    def freed(self, connection: Connection) -> None:
        """It can be used again."""
        if self._closing:
            connection.abort()
            return
        self._free[connection] = self._loop.time()
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(KEEP_ALIVE_SECONDS, self._sweep)

    def lost(self, connection: Connection) -> None:
        """It is closed."""
        self._free.pop(connection, None)
        self._all.discard(connection)
        if not self._all:
            self._none_left.set()

    async def _connect(self) -> Connection:
        sock = await start_connection(
            await self._lookup(), happy_eyeballs_delay=HAPPY_EYEBALLS_SECONDS, interleave=1, loop=self._loop
        )
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            tls = self._tls() if self._address.secure else None
            _, connection = await self._loop.create_connection(
                self._protocol, sock=sock, ssl=tls, server_hostname=self._address.host if tls else None
            )
        except BaseException:
            sock.close()
            raise
        return connection

    def _protocol(self) -> Connection:
        return Connection(self)

    async def _lookup(self) -> Sequence[AddrInfoType]:
        """The name's addresses; many calls that start together ask once."""
        async with self._names:
            if self._loop.time() >= self._found_until:
                self._found = await self._loop.getaddrinfo(
                    self._address.host, self._address.port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
                )
                self._found_until = self._loop.time() + NAME_SECONDS
            return self._found

    def _sweep(self) -> None:
        """Close what has been free for too long; the oldest comes first, for the newest are taken first."""
        self._sweeper = None
        for connection, since in list(self._free.items()):
            left = since + KEEP_ALIVE_SECONDS - self._loop.time()
            if left > 0:
                self._sweeper = self._loop.call_later(left, self._sweep)
                return
            del self._free[connection]
            connection.abort()
