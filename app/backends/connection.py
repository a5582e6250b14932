"""One HTTP/1.1 connection to an upstream, carrying one exchange at a time.

Every wait is bounded (until the head, between two blocks, in total) by one timer that is moved only when a deadline
comes nearer. A reader that is slow stops the socket. Bytes that nobody asked for close the connection.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from app.backends.answer import Answer, Bounds, Broken

READ_AHEAD_BYTES = 128 * 1024  # so much waits for a slow reader before the socket is stopped
PIECE_BYTES = 256 * 1024  # larger bodies are written in pieces, so that other calls get their turn
LINGER_SECONDS = 0.05  # after a stream's last event, for the end of the body: then the connection can be used again
_NOTHING = Bounds(
    whole=True, max_bytes=0, max_refusal_bytes=0, first_byte_seconds=0, idle_seconds=0, total_seconds=0
)  # of a connection that has not been asked anything yet


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
        self.answer = Answer(_NOTHING)
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._busy = self._gone = self._draining = False
        self._sent = True
        self._read_paused = self._write_paused = False
        self._idle_seconds = self._ends_at = self._deadline = self._timer_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, head: bytes, body: bytes, bounds: Bounds, started: float) -> Answer:
        """Send a request and wait for the head (for the whole answer, if it is wanted or refused in one piece)."""
        answer = self.answer = Answer(bounds)
        self._busy = True
        self._idle_seconds = bounds.idle_seconds
        self._ends_at = started + bounds.total_seconds
        self._watch(min(self._ends_at, started + bounds.first_byte_seconds))
        if len(body) <= PIECE_BYTES:
            self._write(head + body)
        else:
            await self._send_in_pieces(head, body)
        while not (answer.complete or (answer.in_parts and answer.status)):
            await self._progress()
        return answer

    async def take(self) -> bytes:
        """What has come since the last time, b"" at the answer's end; raises TimeoutError or Broken."""
        while (block := self.answer.take()) is None:
            await self._progress()
        if self._read_paused:
            self._resume_reading()
        return block

    def release(self, *, ending: bool) -> None:
        """The reader is done. A complete answer frees the connection; of one that is `ending` the rest is awaited."""
        if self._reusable():
            self._free()
        elif ending and self._error is None and not self.answer.complete:
            self._draining = True
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
        try:
            self.answer.feed(data)
        except Broken as exc:
            self._fail(exc)
        else:
            self._fed()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed: the end of an answer without a length of its own, the breaking-off of any other."""
        self._gone = True
        if self._timer is not None:
            self._timer.cancel()
        try:
            self.answer.end(None if exc is None else type(exc).__name__)
        except Broken as broken:
            broken.silent = not self.answer.begun
            self._error = self._error or broken
        self._wake()
        self._keeper.lost(self)

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """The socket takes more."""
        self._write_paused = False
        self._wake()

    # The exchange.

    async def _send_in_pieces(self, head: bytes, body: bytes) -> None:
        """An answer that comes before all is sent (a refusal) ends the sending."""
        self._sent = False
        self._write(head)
        rest = memoryview(body)
        while rest and not self.answer.status:
            self._write(rest[:PIECE_BYTES])
            rest = rest[PIECE_BYTES:]
            while self._write_paused and not self.answer.status:
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

    def _fed(self) -> None:
        answer = self.answer
        if self._draining:
            answer.take()
            if answer.complete:
                self.release(ending=False)
            return
        if answer.status and not answer.complete:
            if answer.in_parts and answer.held_bytes > READ_AHEAD_BYTES:
                self._pause_reading()
            else:
                self._watch(min(self._ends_at, self._loop.time() + self._idle_seconds))
        if answer.complete or answer.in_parts or not self._sent:
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: BaseException) -> None:
        self._error = self._error or error
        self._wake()
        self.abort()

    def _reusable(self) -> bool:
        transport = self._transport
        return (
            self.answer.complete
            and self.answer.keep
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
        self._deadline = self._ends_at
        if self._transport is not None and not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        self._watch(min(self._ends_at, self._loop.time() + self._idle_seconds))
        if self._read_paused and self._transport is not None and not self._gone:
            self._transport.resume_reading()
        self._read_paused = False

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
        if not self._busy or self.answer.complete:
            return
        if self._loop.time() < self._deadline:
            self._watch(self._deadline)
        else:
            self._fail(TimeoutError())
