"""The HTTP client of the request path: one POST per call, over connections that are kept for each upstream address.

Nothing of the caller's headers goes upstream, no redirect is followed, no proxy of the environment is used. Every wait
and every size is bounded (`connection`), for an upstream may be hostile. Leaving the context before the body's end
closes the connection, which tells the upstream to stop working. There are no retries here: they are in one place,
`failover`. Why this client and none of the usual ones: `docs/decisions/`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Self

import structlog

from app.backends.answer import Answer, Bounds, Broken, TooLarge
from app.backends.body import outgoing
from app.backends.connection import Connection
from app.backends.connections import Address, Connections, Unreached
from app.backends.inflate import Inflate
from app.backends.refusal import as_error
from app.errors import UpstreamFailed, UpstreamTimedOut
from app.types import Call, Endpoint, Operation

MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_STREAM_BYTES = 1024 * 1024 * 1024  # a stream passes through, so this bounds time and money, not memory
MAX_REFUSAL_BYTES = 64 * 1024
MAX_PLACES = 4096  # addresses that are remembered: servers of a pool come and go

_PATHS = {
    Operation.CHAT: "/chat/completions",
    Operation.COMPLETIONS: "/completions",
    Operation.EMBEDDINGS: "/embeddings",
}
_HEADERS = (
    "accept: application/json, text/event-stream\r\n"
    "accept-encoding: identity\r\n"
    "content-type: application/json\r\n"
    "user-agent: tunegate\r\n"
)
_FAILURES = (TimeoutError, Broken, Unreached)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the calls of one operation go at one base URL, and the head of each of them."""

    connections: Connections
    head: bytes


class HttpBackend:
    """Implements `app.interfaces.Backend`; use it with `async with`, connections open on first use."""

    def __init__(self, *, max_answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._max_answer_bytes = max_answer_bytes
        self._places: dict[tuple[str, Operation], _Place] = {}
        self._connections: dict[tuple[bool, str], Connections] = {}
        self._tls = lru_cache(maxsize=1)(ssl.create_default_context)  # reading the authorities takes milliseconds

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connections in self._connections.values():
            await connections.close()
        self._connections.clear()
        self._places.clear()

    def open(self, endpoint: Endpoint, call: Call, request_id: str) -> HttpUpstream:
        """Send and wait for the head; raise UpstreamFailed (retriable elsewhere) or UpstreamRefused (4xx)."""
        limit = MAX_STREAM_BYTES if call.stream else self._max_answer_bytes
        return HttpUpstream(self.place(endpoint.base_url, call.operation), endpoint, call, request_id, limit)

    def place(self, base_url: str, operation: Operation) -> _Place:
        """Where calls of that operation go; remembered."""
        place = self._places.get((base_url, operation))
        if place is None:
            if len(self._places) >= MAX_PLACES:
                self._places.clear()
                self._connections = {key: kept for key, kept in self._connections.items() if kept.in_use}
            place = self._places[base_url, operation] = self._new_place(base_url, operation)
        return place

    def _new_place(self, base_url: str, operation: Operation) -> _Place:
        base = base_url.rstrip("/")
        root = base if base.endswith("/v1") else f"{base}/v1"
        address = Address.of(root + _PATHS[operation])
        key = (address.secure, address.authority)
        connections = self._connections.get(key)
        if connections is None:
            connections = self._connections[key] = Connections(address, self._tls)
        return _Place(connections, f"POST {address.path} HTTP/1.1\r\nhost: {address.authority}\r\n{_HEADERS}".encode())


class HttpUpstream:
    """One call that is under way; implements `app.interfaces.Upstream`.

    The body's iterator is the object itself, not a generator: nothing is left to the garbage collector when a reader
    stops half-way, and a block costs no extra frame.
    """

    def __init__(self, place: _Place, endpoint: Endpoint, call: Call, request_id: str, limit: int) -> None:
        self.status = 0
        self.content_type = b""
        self.endpoint = endpoint
        self._place = place
        self._call = call
        self._request_id = request_id
        self._limit = limit
        self._connection: Connection | None = None
        self._inflate: Inflate | None = None
        self._last = b""

    async def __aenter__(self) -> Self:
        body = outgoing(self.endpoint, self._call)
        try:
            self._read_head(await self._asked(body))
        except _FAILURES as exc:
            self._leave()
            raise self._failed(exc) from exc
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(ending=exc is None and b"[DONE]" in self._last[-64:])

    def blocks(self) -> AsyncIterator[bytes]:
        """The body's bytes as they arrive; raises UpstreamFailed when it breaks off or idles too long."""
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            block = await (self._next() if self._inflate is None else self._inflated(self._inflate))
        except _FAILURES as exc:
            raise self._failed(exc) from exc
        if not block:
            raise StopAsyncIteration
        self._last = block
        return block

    async def _asked(self, body: bytes) -> Answer:
        """Send the call; its answer's head is here then (of a call without stream: all of it)."""
        endpoint, call = self.endpoint, self._call
        started = asyncio.get_running_loop().time()
        waits = min(endpoint.connect_timeout_seconds, endpoint.first_byte_timeout_seconds)
        head = b"%b%bcontent-length: %d\r\n\r\n" % (self._place.head, _lines(endpoint), len(body))
        connection = self._connection = await self._place.connections.take(waits)
        bounds = Bounds(
            whole=not call.stream,
            max_bytes=self._limit,
            max_refusal_bytes=MAX_REFUSAL_BYTES,
            first_byte_seconds=endpoint.first_byte_timeout_seconds,
            idle_seconds=endpoint.idle_timeout_seconds,
            total_seconds=endpoint.total_timeout_seconds,
        )
        try:
            return await connection.ask(head, body, bounds, started)
        except TooLarge:
            if connection.answer.status in (0, 200):
                raise
            return connection.answer  # a refusal that is too large is one without a text

    def _read_head(self, answer: Answer) -> None:
        self.status, headers = answer.status, answer.headers
        self.content_type = headers.get(b"content-type", b"")
        encoding = headers.get(b"content-encoding", b"identity")
        if encoding.lower() != b"identity":
            self._inflate = Inflate(encoding, self._limit if self.status == 200 else MAX_REFUSAL_BYTES)
        if self.status != 200:
            retry_after = headers.get(b"retry-after", b"").decode("latin-1")
            raise as_error(self.endpoint, self.status, self._refusal(answer), retry_after)
        if self._call.stream and not self.content_type.lower().startswith(b"text/event-stream"):
            raise UpstreamFailed("The upstream did not answer with an event stream.")

    def _refusal(self, answer: Answer) -> bytes:
        payload = answer.take() or b""
        try:
            return payload if self._inflate is None else self._inflate.block(payload)
        except Broken:
            return b""

    async def _next(self) -> bytes:
        return b"" if self._connection is None else await self._connection.take()

    async def _inflated(self, inflate: Inflate) -> bytes:
        while block := await self._next():
            plain = inflate.block(block)
            if plain:
                return plain
        inflate.end()
        return b""

    def _leave(self, *, ending: bool = False) -> None:
        if self._connection is not None:
            self._connection.release(ending=ending)
            self._connection = None

    def _failed(self, exc: Exception) -> UpstreamFailed:
        reason = str(exc) or type(exc).__name__
        _log.warning("upstream_failed", upstream=self.endpoint.upstream, request_id=self._request_id, reason=reason)
        error = self._described(exc)
        error.connection_lost = not isinstance(exc, TimeoutError)
        error.disconnected = isinstance(exc, Broken) and exc.silent
        return error

    def _described(self, exc: Exception) -> UpstreamFailed:
        if isinstance(exc, TimeoutError) or (isinstance(exc, Unreached) and exc.timed_out):
            return UpstreamTimedOut("The upstream did not answer in time.")
        if isinstance(exc, TooLarge):
            return UpstreamFailed("The upstream's answer is too large.")
        if not self.status:
            return UpstreamFailed("The upstream could not be reached.")
        return UpstreamFailed("The upstream broke off its answer.")


def _lines(endpoint: Endpoint) -> bytes:
    """The endpoint's own headers; raises ValueError for one that would not be a header."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in endpoint.headers.items()])
    if lines.count("\n") != len(endpoint.headers) or "\0" in lines:
        raise ValueError("a header's name or value holds a line break")
    return lines.encode("latin-1")
