"""The HTTP client of the request path: one aiohttp session per upstream, one POST per call.

Nothing of the caller's headers goes upstream, and no redirect is followed. Every wait is bounded: to connect, until
the head, between two blocks, in total; so is every size, for an upstream may be hostile. Leaving the context before
the body's end closes the connection, which tells the upstream to stop working. There are no retries here: they are in
one place, `failover`.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Self

import aiohttp
import structlog
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from app.backends.body import outgoing
from app.backends.refusal import as_error
from app.errors import UpstreamFailed, UpstreamTimedOut
from app.types import Call, Endpoint, Operation

MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_STREAM_BYTES = 1024 * 1024 * 1024  # a stream passes through, so this bounds time and money, not memory
MAX_REFUSAL_BYTES = 64 * 1024
MAX_HEADER_BYTES = 16 * 1024
READ_BUFFER_BYTES = 64 * 1024
LARGE_BODY_BYTES = 512 * 1024  # from here on the body is written in pieces, so that other calls get their turn
KEEP_ALIVE_SECONDS = 4.0  # below uvicorn's (so vLLM's) five: the side that sends must be the one that closes
LINGER_SECONDS = 0.05  # after [DONE], for the end of the body: then the connection can be used again

_PATHS = {
    Operation.CHAT: "/chat/completions",
    Operation.COMPLETIONS: "/completions",
    Operation.EMBEDDINGS: "/embeddings",
}
_HEADERS = {
    "accept": "application/json, text/event-stream",
    "accept-encoding": "identity",
    "content-type": "application/json",
    "user-agent": "tunegate",
}
_BROKEN = (aiohttp.ClientError, HttpProcessingError, OSError)
_HUNG_UP = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)
_log = structlog.get_logger()


class HttpBackend:
    """Implements `app.interfaces.Backend`; use it with `async with`, sessions open on first use."""

    def __init__(self, *, max_answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._max_answer_bytes = max_answer_bytes
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._urls: dict[tuple[str, Operation], URL] = {}
        self._timeouts: dict[tuple[float, float], aiohttp.ClientTimeout] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    def open(self, endpoint: Endpoint, call: Call, request_id: str) -> HttpUpstream:
        """Send and wait for the head; raise UpstreamFailed (retriable elsewhere) or UpstreamRefused (4xx)."""
        limit = MAX_STREAM_BYTES if call.stream else self._max_answer_bytes
        return HttpUpstream(self, endpoint, call, request_id, limit)

    async def post(self, endpoint: Endpoint, call: Call) -> aiohttp.ClientResponse:
        """The upstream's head, within the endpoint's own time."""
        body = outgoing(endpoint, call)
        async with asyncio.timeout(endpoint.first_byte_timeout_seconds):
            return await self._session(endpoint.upstream).post(
                self._url(endpoint.base_url, call.operation),
                data=body if len(body) < LARGE_BODY_BYTES else io.BytesIO(body),
                headers=endpoint.headers,
                allow_redirects=False,
                timeout=self._timeout(endpoint.total_timeout_seconds, endpoint.connect_timeout_seconds),
            )

    def _session(self, upstream: str) -> aiohttp.ClientSession:
        session = self._sessions.get(upstream)
        if session is None:
            session = self._sessions[upstream] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=_HEADERS,
                trust_env=False,
                read_bufsize=READ_BUFFER_BYTES,
                max_line_size=MAX_HEADER_BYTES,
                max_field_size=MAX_HEADER_BYTES,
            )
        return session

    def _url(self, base_url: str, operation: Operation) -> URL:
        url = self._urls.get((base_url, operation))
        if url is None:
            base = base_url.rstrip("/")
            root = base if base.endswith("/v1") else f"{base}/v1"
            url = self._urls[base_url, operation] = URL(root + _PATHS[operation])
        return url

    def _timeout(self, total: float, connect: float) -> aiohttp.ClientTimeout:
        timeout = self._timeouts.get((total, connect))
        if timeout is None:
            timeout = self._timeouts[total, connect] = aiohttp.ClientTimeout(total=total, sock_connect=connect)
        return timeout


class HttpUpstream:
    """One call that is under way; implements `app.interfaces.Upstream`.

    The body's iterator is the object itself, not a generator: nothing is left to the garbage collector when a reader
    stops half-way, and a block costs no extra frame.
    """

    def __init__(self, backend: HttpBackend, endpoint: Endpoint, call: Call, request_id: str, limit: int) -> None:
        self.status = 0
        self.content_type = b""
        self.endpoint = endpoint
        self._backend = backend
        self._call = call
        self._request_id = request_id
        self._limit = limit
        self._response: aiohttp.ClientResponse | None = None
        self._content: aiohttp.StreamReader = aiohttp.EMPTY_PAYLOAD
        self._last = b""
        self._size = 0

    async def __aenter__(self) -> Self:
        try:
            response = await self._backend.post(self.endpoint, self._call)
        except (TimeoutError, *_BROKEN) as exc:
            raise self._failed(exc) from exc
        self._response = response
        try:
            await self._begin(response)
        except BaseException:
            response.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._response is None:
            return
        if exc is None and not self._content.is_eof() and b"[DONE]" in self._last[-64:]:
            await self._linger()
        self._response.close()

    def blocks(self) -> AsyncIterator[bytes]:
        """The body's bytes as they arrive; raises UpstreamFailed when it breaks off or idles too long."""
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        block = await (self._read() if self._call.stream else self._read_all())
        if not block:
            raise StopAsyncIteration
        self._last = block
        return block

    async def _begin(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.content_type = response.headers.get("content-type", "").encode("latin-1", "replace")
        self._content = response.content
        connection = response.connection
        if connection is not None and connection.protocol is not None:
            connection.protocol.read_timeout = self.endpoint.idle_timeout_seconds
            connection.protocol.start_timeout()
        if response.status != 200:
            payload = await self._read_refusal()
            raise as_error(self.endpoint, response.status, payload, response.headers.get("retry-after", ""))
        if self._call.stream and not self.content_type.lower().startswith(b"text/event-stream"):
            raise UpstreamFailed("The upstream did not answer with an event stream.")
        if (response.content_length or 0) > self._limit:
            raise UpstreamFailed("The upstream's answer is too large.")

    async def _read(self) -> bytes:
        try:
            block = await self._content.readany()
        except (TimeoutError, *_BROKEN) as exc:
            raise self._failed(exc) from exc
        self._size += len(block)
        if self._size > self._limit:
            raise UpstreamFailed("The upstream's answer is too large.")
        return block

    async def _read_all(self) -> bytes:
        blocks: list[bytes] = []
        while block := await self._read():
            blocks.append(block)
        return b"".join(blocks)

    async def _read_refusal(self) -> bytes:
        payload = b""
        while len(payload) <= MAX_REFUSAL_BYTES and (block := await self._read()):
            payload += block
        return payload if len(payload) <= MAX_REFUSAL_BYTES else b""

    async def _linger(self) -> None:
        """Read past [DONE] to the body's end, which is on its way, or give up soon."""
        with suppress(TimeoutError, *_BROKEN):
            async with asyncio.timeout(LINGER_SECONDS):
                while await self._content.readany():
                    pass

    def _failed(self, exc: BaseException) -> UpstreamFailed:
        reason = type(exc).__name__
        _log.warning("upstream_failed", upstream=self.endpoint.upstream, request_id=self._request_id, reason=reason)
        unreached = isinstance(exc, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
        error = self._described(exc)
        error.connection_lost = unreached or not isinstance(exc, TimeoutError)
        error.disconnected = self._response is None and not unreached and isinstance(exc, _HUNG_UP)
        return error

    def _described(self, exc: BaseException) -> UpstreamFailed:
        if isinstance(exc, TimeoutError):
            return UpstreamTimedOut("The upstream did not answer in time.")
        if self._response is None:
            return UpstreamFailed("The upstream could not be reached.")
        return UpstreamFailed("The upstream broke off its answer.")
