"""Identical calls in flight within one tenant share one upstream call, streaming included.

The upstream call (a flight) runs in a task of its own, so no caller's leaving cuts the others off; when the last one
has left, it is aborted. Each caller (a seat) reads the same blocks at its own pace, from the first on, and relays and
meters them itself. The flight reads on no further than a few blocks ahead of its quickest reader, and lets go of what
all have read once the answer is too long to be joined.

Identical means: the same exact key, which covers everything that may change the answer; both or neither streaming; and
the same payer at every upstream that may be called. Calls on a provider key of the caller's own share with calls on the
same key only: else that key would pay for somebody else's answer, or we would for one that the key should have paid.
Calls are joined within one process: N gateway processes make at most N upstream calls of the same question.

Who pays (`Bill`) is decided when accounts are closed. Invariant: unless every caller pays for itself, exactly one pays
for a flight: the first whose answer is complete, or, when all leave early, the last to leave, for the most that any of
them has been relayed. So no usage is free and none is charged twice.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

from app.cache.tasks import Tasks
from app.interfaces import Outgoing, Record, Upstream
from app.types import Call, Choice, Endpoint, Target, Usage

AHEAD_BLOCKS = 32
DONE = b"[DONE]"

Key = tuple[str, bytes, bool, bytes]
Reach = Callable[[Outgoing], AbstractAsyncContextManager[tuple[Target, Upstream]]]


def flight_key(tenant_id: str, exact: bytes, call: Call, choice: Choice) -> Key:
    """What identical calls have in common; secrets are in it as a digest only."""
    return tenant_id, exact, call.stream, _payer(choice.targets)


def _payer(targets: Sequence[Target]) -> bytes:
    """Who pays at each of these targets: empty where we do everywhere."""
    if all(target.credential is None for target in targets):
        return b""
    digest = hashlib.sha256()
    for target in targets:
        secret = b"" if target.credential is None else target.credential.encode()
        digest.update(b"%d:%b" % (-1 if target.credential is None else len(secret), secret))
    return digest.digest()


class Bill:
    """Implements `app.interfaces.Bill`: what of a shared answer each caller is charged."""

    def __init__(self, *, every_caller_pays: bool) -> None:
        self._every_caller_pays = every_caller_pays
        self._open = 0
        self._paid = False
        self._most = Usage()

    def opened(self) -> None:
        """One more account is going to be closed."""
        self._open += 1

    def charge(self, used: Usage, *, complete: bool) -> Usage:
        """Close one account that was relayed so much: what it is charged."""
        self._open -= 1
        if self._every_caller_pays:
            return used
        if self._paid:
            return Usage()
        if used.total_tokens > self._most.total_tokens:
            self._most = used
        if not complete and self._open:
            return Usage()
        self._paid = True
        return self._most


class Flights:
    """The flights of this process."""

    def __init__(self, *, every_caller_pays: bool, max_bytes: int) -> None:
        self._every_caller_pays = every_caller_pays
        self._max_bytes = max_bytes
        self._flights: dict[Key, _Flight] = {}
        self._tasks = Tasks()

    def __len__(self) -> int:
        return len(self._flights)

    def join(self, key: Key, reach: Reach, record: Record) -> AbstractAsyncContextManager[tuple[Target, Upstream]]:
        """The answer of the flight that is under way, or of a new one; open until the context ends."""
        return _Seat(self, key, reach, record)

    def board(self, seat: _Seat, key: Key, reach: Reach) -> _Flight:
        """Take a seat where one is to be had, else set off."""
        flight = self._flights.get(key)
        joined = flight is not None and flight.boards
        if flight is None or not joined:
            flight = self._flights[key] = _Flight(Bill(every_caller_pays=self._every_caller_pays), self._max_bytes)
            flight.start(self._tasks, reach)
        seat.record.shares(flight.bill, joined=joined)
        flight.take(seat)
        return flight

    def landed(self, key: Key, flight: _Flight) -> None:
        """Nobody sits in this flight any more."""
        if self._flights.get(key) is flight:
            del self._flights[key]


class _Flight:
    """One upstream call and what it has brought so far; implements `app.interfaces.Outgoing` for all its seats."""

    def __init__(self, bill: Bill, max_bytes: int) -> None:
        self.bill = bill
        self.opened: tuple[Target, Upstream] | None = None
        self.blocks: list[bytes] = []
        self.seats: list[_Seat] = []
        self._max_bytes = max_bytes
        self._size = 0
        self._dropped = 0
        self._sent_to: Target | None = None
        self._room = asyncio.Event()
        self._complete = False
        self._task: asyncio.Task[None] | None = None

    @property
    def boards(self) -> bool:
        """Whether a new caller can still get all of it."""
        running = self._task is not None and not self._task.done()
        return (running or self._complete) and self._size <= self._max_bytes

    def start(self, tasks: Tasks, reach: Reach) -> None:
        """Set off."""
        self._task = tasks.start(self._fly(reach))
        self._task.add_done_callback(self._ended)

    def sent(self, target: Target) -> None:
        """The call has gone to this target: from here on it may cost something."""
        self._sent_to = target
        for seat in self.seats:
            seat.record.sent(target)

    def take(self, seat: _Seat) -> None:
        """One caller more."""
        self.seats.append(seat)
        self.bill.opened()
        if self._sent_to is not None:
            seat.record.sent(self._sent_to)

    def has_ended(self) -> bool:
        """Whether nothing more will come; raises what ended it, if it was not the answer's own end."""
        if self._task is None or not self._task.done():
            return self._complete
        self._task.result()
        return True

    def moved_on(self) -> None:
        """A seat has read a block, or has left."""
        self._room.set()
        if self._size > self._max_bytes and self.seats:
            least = min(seat.position for seat in self.seats)
            self.blocks[self._dropped : least] = [b""] * (least - self._dropped)
            self._dropped = max(self._dropped, least)

    async def abort(self) -> None:
        """End the upstream call, unless its answer is complete."""
        if self._task is not None and not self._complete and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _fly(self, reach: Reach) -> None:
        async with reach(self) as opened:
            self.opened = opened
            self._tell()
            async for block in opened[1].blocks():
                self.blocks.append(block)
                self._size += len(block)
                self._tell()
                if DONE in block[-64:]:
                    break
                await self._no_further_ahead()
            self._complete = True
            self._tell()

    async def _no_further_ahead(self) -> None:
        while self.seats and len(self.blocks) - max(seat.position for seat in self.seats) >= AHEAD_BLOCKS:
            self._room.clear()
            await self._room.wait()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # each seat raises it; with no seat left it is nobody's
        self._tell()

    def _tell(self) -> None:
        for seat in self.seats:
            seat.news.set()


class _Seat:
    """One caller of a flight; implements `app.interfaces.Upstream`, open while its context is."""

    def __init__(self, flights: Flights, key: Key, reach: Reach, record: Record) -> None:
        self.record = record
        self.position = 0
        self.news = asyncio.Event()
        self.status = 0
        self.content_type = b""
        self.endpoint: Endpoint
        self._flights = flights
        self._key = key
        self._reach = reach
        self._flight: _Flight

    async def __aenter__(self) -> tuple[Target, Upstream]:
        self._flight = self._flights.board(self, self._key, self._reach)
        try:
            target, upstream = await self._opened()
        except BaseException:
            await self._leave()
            raise
        self.status, self.content_type, self.endpoint = upstream.status, upstream.content_type, upstream.endpoint
        return target, self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    def blocks(self) -> AsyncIterator[bytes]:
        """The body's bytes as they arrive; raises UpstreamFailed when it breaks off or idles too long."""
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        flight = self._flight
        while self.position == len(flight.blocks):
            if flight.has_ended():
                raise StopAsyncIteration
            await self._wait()
        block = flight.blocks[self.position]
        self.position += 1
        flight.moved_on()
        return block

    async def _opened(self) -> tuple[Target, Upstream]:
        while self._flight.opened is None:
            self._flight.has_ended()
            await self._wait()
        return self._flight.opened

    async def _wait(self) -> None:
        await self.news.wait()
        self.news.clear()

    async def _leave(self) -> None:
        flight = self._flight
        flight.seats.remove(self)
        flight.moved_on()
        if not flight.seats:
            self._flights.landed(self._key, flight)
            await flight.abort()
