"""One HTTP/1.1 connection to an upstream, carrying one exchange at a time; the parsing is llhttp's (httptools).

Every wait is bounded (until the head, between two blocks, in total) by one timer that is moved only when a deadline
comes nearer, and so is everything that is kept: the head, what carries no body (trailers, chunk extensions, interim
answers), the body. A reader that is slow stops the socket. Bytes that nobody asked for make the connection unusable, so
one call can never read what belongs to another.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol, cast

import httptools

MAX_HEAD_BYTES = 16 * 1024
READ_AHEAD_BYTES = 128 * 1024  # so much waits for a slow reader before the socket is stopped
PIECE_BYTES = 256 * 1024  # larger bodies are written in pieces, so that other calls get their turn
LINGER_SECONDS = 0.05  # after a stream's last event, for the end of the body: then the connection can be used again


class Broken(Exception):
    """The exchange failed; `silent` when not a byte of an answer came before the other side hung up."""

    silent = False


class TooLarge(Broken):
    """The answer is larger than it may be."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one answer may take; a refusal (any status but 200) is always read whole.

    `whole`: the reader wants the answer in one piece, so it is not woken before its end.
    """

    whole: bool
    max_bytes: int
    max_refusal_bytes: int
    first_byte_seconds: float
    idle_seconds: float
    total_seconds: float


class Keeper(Protocol):
    """Who keeps connections: told when one is made, can take its next exchange, is gone."""

    def made(self, connection: Connection) -> None:
        """It is open."""
        ...

    def freed(self, connection: Connection) -> None:
        """It can be used again."""
        ...

    def lost(self, connection: Connection) -> None:
        """It is closed."""
        ...


class Connection(asyncio.Protocol):
    """A connection and the exchange that it carries now, or carried last."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._write_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._busy = False
        self._gone = False
        self.complete = True
        self.status = 0
        self.headers: dict[bytes, bytes] = {}

    async def ask(self, head: bytes, body: bytes, bounds: Bounds, started: float) -> None:
        """Send a request and wait for the head (for the whole answer, if it is wanted or refused in one piece)."""
        self._reset(bounds, started)
        if len(body) <= PIECE_BYTES:
            self._write(head + body)
        else:
            await self._send_in_pieces(head, body)
        self._eager = not bounds.whole and self.status in (0, 200)
        while not (self.complete or (self._eager and self.status)):
            await self._progress()

    def take(self) -> bytes | None:
        """What has come since the last time, b"" at the answer's end, None when it must be waited for (`more`)."""
        blocks = self._blocks
        if not blocks:
            return b"" if self.complete else None
        if not (self._eager or self.complete):
            return None
        self._blocks, self._held = [], 0
        if self._read_paused:
            self._resume_reading()
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    async def more(self) -> None:
        """Wait until there is more to take; raises TimeoutError or Broken when there will not be."""
        await self._progress()

    def release(self, *, ending: bool) -> None:
        """The reader is done. A complete answer frees the connection; of one that is `ending` the rest is awaited."""
        if self._reusable():
            self._free()
        elif ending and self._error is None and not self.complete:
            self._draining = True
            self._blocks.clear()
            if self._read_paused:
                self._resume_reading()
            self._watch(self._loop.time() + LINGER_SECONDS)
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once: what is not yet sent is not sent any more."""
        self._busy = False
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self._transport = cast(asyncio.Transport, transport)  # a stream socket's; uvloop's is no subclass of it
        self._keeper.made(self)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if not self._busy:
            self.abort()
            return
        size = self._size
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._keep = False
            if not self.complete:
                self._fail(exc.__context__ if isinstance(exc.__context__, TooLarge) else Broken(type(exc).__name__))
                return
        if self._size != size:
            self._barren = 0
        else:
            self._barren += len(data)
            if self._barren > MAX_HEAD_BYTES:
                self._fail(Broken("HeadTooLarge"))
                return
        self._after_data()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed: the end of an answer without a length of its own, the breaking-off of any other."""
        self._gone = True
        if self._timer is not None:
            self._timer.cancel()
        if not self.complete and self._error is None:
            if exc is None and self.status and not self._framed:
                self.complete, self._keep = True, False
                self._wake()
            else:
                error = Broken("Disconnected" if exc is None else type(exc).__name__)
                error.silent = not (self.status or self._barren)
                self._fail(error)
        self._keeper.lost(self)

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """The socket takes more."""
        self._write_paused = False
        self._wake()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """An answer begins; only one was asked for."""
        if self.complete:
            raise Broken("UnaskedAnswer")
        self.headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise Broken("HeadTooLarge")
        if not self.status:  # else a trailer
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The head is here."""
        status = self._parser.get_status_code()
        if status < 200:  # an interim answer; the clock of the first byte runs on
            return
        self.status = status
        length = self.headers.get(b"content-length")
        self._framed = length is not None or b"chunked" in self.headers.get(b"transfer-encoding", b"").lower()
        if status != 200:
            self._eager = False
            self._max_bytes = min(self._max_bytes, self._bounds.max_refusal_bytes)
        if length is not None and int(length) > self._max_bytes:
            raise TooLarge

    def on_body(self, block: bytes) -> None:
        """Part of the body."""
        self._size += len(block)
        if self._size > self._max_bytes:
            raise TooLarge
        if not self._draining:
            self._blocks.append(block)
            self._held += len(block)

    def on_message_complete(self) -> None:
        """The answer is here."""
        if self.status:
            self.complete = True
            self._keep = self._parser.should_keep_alive()

    # The exchange.

    def _reset(self, bounds: Bounds, started: float) -> None:
        self._bounds = bounds
        self._max_bytes = bounds.max_bytes
        self._eager = True  # while the request is being sent, a head is news at once
        self._blocks: list[bytes] = []
        self._held = self._size = self._barren = self._head_bytes = 0
        self._error: BaseException | None = None
        self._read_paused = self._framed = self._keep = self._draining = False
        self._sent = True
        self.complete = False
        self.status = 0
        self._busy = True
        self._ends_at = started + bounds.total_seconds
        self._watch(min(self._ends_at, started + bounds.first_byte_seconds))

    async def _send_in_pieces(self, head: bytes, body: bytes) -> None:
        """An answer that comes before all is sent (a refusal) ends the sending."""
        self._sent = False
        self._write(head)
        rest = memoryview(body)
        while rest and not self.status:
            self._write(rest[:PIECE_BYTES])
            rest = rest[PIECE_BYTES:]
            while self._write_paused and not self.status:
                await self._progress()
        self._sent = not rest

    def _write(self, data: bytes | memoryview) -> None:
        if self._transport is not None and not self._gone:
            self._transport.write(data)

    async def _progress(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _after_data(self) -> None:
        if self.complete:
            if self._draining:
                self._free() if self._reusable() else self.abort()
            else:
                self._wake()
            return
        if self._draining or not self.status:
            return  # these clocks do not start again with every block
        if not self._eager:
            self._watch(min(self._ends_at, self._loop.time() + self._bounds.idle_seconds))
            return
        if self._held > READ_AHEAD_BYTES and not self._read_paused:
            self._pause_reading()
        else:
            self._watch(min(self._ends_at, self._loop.time() + self._bounds.idle_seconds))
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: BaseException) -> None:
        self._error = error
        self._wake()
        self.abort()

    def _reusable(self) -> bool:
        transport = self._transport
        return (
            self.complete
            and self._keep
            and self._sent
            and not self._gone
            and transport is not None
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )

    def _free(self) -> None:
        self._busy = self._draining = False
        self._keeper.freed(self)

    def _pause_reading(self) -> None:
        """A reader that is slow is no upstream that is: only the total time runs on."""
        self._read_paused = True
        self._deadline = self._ends_at
        if self._transport is not None:
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        self._read_paused = False
        self._watch(min(self._ends_at, self._loop.time() + self._bounds.idle_seconds))
        if self._transport is not None and not self._gone:
            self._transport.resume_reading()

    # The clock.

    def _watch(self, deadline: float) -> None:
        self._deadline = deadline
        if self._timer is None or deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = self._loop.call_at(deadline, self._due)

    def _due(self) -> None:
        self._timer = None
        if not self._busy or self.complete:
            return
        if self._loop.time() < self._deadline:
            self._watch(self._deadline)
        else:
            self._fail(TimeoutError())
