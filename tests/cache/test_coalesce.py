"""Identical calls in flight: one upstream call, every answer whole, nobody cut off, exactly one payer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from app.cache.coalesce import AHEAD_BLOCKS, Bill, Flights, Key, flight_key
from app.errors import GatewayError, UpstreamFailed, UpstreamRefused
from app.interfaces import Bill as AnyBill
from app.interfaces import Meter, Outgoing, Upstream
from app.types import Endpoint, Target, Usage
from tests.cache.calls import make_call, make_choice, make_target

KEY: Key = ("acme", b"k", True, b"")
TARGET = make_target()


@dataclass(slots=True)
class FakeRecord:
    """An account that remembers what it is told; implements `app.interfaces.Record`."""

    bill: AnyBill | None = None
    joined: bool = False
    targets: list[Target] = field(default_factory=list)

    def sent(self, target: Target) -> None:
        """Remember."""
        self.targets.append(target)

    def shares(self, bill: AnyBill, *, joined: bool) -> None:
        """Remember."""
        self.bill, self.joined = bill, joined

    def first_byte(self) -> None:
        """Nothing."""

    def metered(self, target: Target, meter: Meter) -> None:
        """Nothing."""

    def broke(self, error: GatewayError) -> None:
        """Nothing."""

    async def affords(self) -> bool:
        """It always does."""
        return True

    def settle(self) -> None:
        """Nothing."""


class FakeUpstream:
    """An answer that is written by the test, block by block; None ends it."""

    def __init__(self) -> None:
        self.status = 200
        self.content_type = b"text/event-stream"
        self.endpoint = Endpoint("main", "http://x", "m", {})
        self.opened = 0
        self.closed: list[BaseException | None] = []
        self.given = 0
        self.queue: asyncio.Queue[bytes | GatewayError | None] = asyncio.Queue()
        self.opens = asyncio.Event()
        self.refusal: Exception | None = None

    def put(self, *blocks: bytes | GatewayError | None) -> None:
        """Write blocks."""
        for block in blocks:
            self.queue.put_nowait(block)

    @asynccontextmanager
    async def reach(self, record: Outgoing) -> AsyncIterator[tuple[Target, Upstream]]:
        """Open it, once the test lets it."""
        self.opened += 1
        record.sent(TARGET)
        try:
            await self.opens.wait()
            self.let_in()
            yield TARGET, self
        except BaseException as exc:
            self.closed.append(exc)
            raise
        self.closed.append(None)

    def let_in(self) -> None:
        """Refuse if the test says so."""
        if self.refusal is not None:
            raise self.refusal

    async def blocks(self) -> AsyncIterator[bytes]:
        """What was written."""
        while (block := await self.queue.get()) is not None:
            if isinstance(block, GatewayError):
                raise block
            self.given += 1
            yield block


@pytest.fixture
def upstream() -> FakeUpstream:
    """An upstream that answers at once."""
    made = FakeUpstream()
    made.opens.set()
    return made


@pytest.fixture
def flights() -> Flights:
    """Flights whose first caller pays."""
    return Flights(every_caller_pays=False, max_bytes=1000)


async def read(seat: AbstractAsyncContextManager[tuple[Target, Upstream]]) -> list[bytes]:
    """Everything a caller gets."""
    async with seat as (target, upstream):
        assert target is TARGET
        assert upstream.status == 200
        return [block async for block in upstream.blocks()]


async def until(true: Callable[[], object]) -> None:
    """Give the loop turns until something has happened."""
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0)


async def test_a_thousand_callers_one_upstream_call(flights: Flights, upstream: FakeUpstream) -> None:
    """All of them get all blocks, and nothing is left behind."""
    records = [FakeRecord() for _ in range(1000)]
    callers = [asyncio.create_task(read(flights.join(KEY, upstream.reach, record))) for record in records]
    upstream.put(b"a", b"b", b"c", None)
    assert all(blocks == [b"a", b"b", b"c"] for blocks in await asyncio.gather(*callers))
    assert upstream.opened == 1
    assert upstream.closed == [None]
    assert [record.joined for record in records] == [False] + [True] * 999
    assert all(record.targets == [TARGET] for record in records)
    assert len(flights) == 0


async def test_only_calls_of_the_same_payer_share(flights: Flights, upstream: FakeUpstream) -> None:
    """Ours, each provider key of a caller's own, and the same key at another target: four flights, two seats each."""
    paid: list[list[str | None]] = [[None, None], ["sk-a", None], ["sk-b", None], [None, "sk-a"]]
    choices = [make_choice(targets=tuple(make_target(credential=secret) for secret in one)) for one in paid]
    keys = [flight_key("acme", b"k", make_call(stream=True), choice) for choice in choices]
    assert not any(b"sk-" in key[3] for key in keys)
    callers = [asyncio.create_task(read(flights.join(key, upstream.reach, FakeRecord()))) for key in keys * 2]
    await until(lambda: upstream.opened == len(keys))
    upstream.put(*[None] * len(keys))
    await asyncio.gather(*callers)
    assert upstream.opened == len(keys)


async def test_other_tenants_and_questions_fly_alone(flights: Flights, upstream: FakeUpstream) -> None:
    """Tenant, exact key and streaming must all be the same."""
    keys: list[Key] = [KEY, ("bloom", b"k", True, b""), ("acme", b"l", True, b""), ("acme", b"k", False, b"")]
    callers = [asyncio.create_task(read(flights.join(key, upstream.reach, FakeRecord()))) for key in keys]
    await until(lambda: upstream.opened == 4)
    upstream.put(*[None] * 4)
    await asyncio.gather(*callers)


async def test_a_late_caller_gets_it_from_the_beginning(flights: Flights, upstream: FakeUpstream) -> None:
    """One who joins in the middle of a stream reads what the others have had already."""
    first = asyncio.create_task(read(flights.join(KEY, upstream.reach, FakeRecord())))
    upstream.put(b"a", b"b")
    await until(lambda: upstream.given == 2)
    late = asyncio.create_task(read(flights.join(KEY, upstream.reach, FakeRecord())))
    await asyncio.sleep(0)
    upstream.put(b"c", None)
    assert await first == await late == [b"a", b"b", b"c"]
    assert upstream.opened == 1


async def test_the_first_caller_may_leave(flights: Flights, upstream: FakeUpstream) -> None:
    """Before and after the first byte, the others go on undisturbed."""
    upstream.opens.clear()
    callers = [asyncio.create_task(read(flights.join(KEY, upstream.reach, FakeRecord()))) for _ in range(4)]
    await asyncio.sleep(0)
    callers[0].cancel()
    await until(callers[0].done)
    upstream.opens.set()
    upstream.put(b"a")
    await until(lambda: upstream.given == 1)
    callers[1].cancel()
    await until(callers[1].done)
    upstream.put(b"b", None)
    assert await callers[2] == await callers[3] == [b"a", b"b"]
    assert upstream.closed == [None]


@pytest.mark.parametrize("begun", [False, True])
async def test_the_last_to_leave_stops_the_upstream(flights: Flights, upstream: FakeUpstream, begun: bool) -> None:
    """When all have left, the upstream call is ended before the last one has gone."""
    if not begun:
        upstream.opens.clear()
    callers = [asyncio.create_task(read(flights.join(KEY, upstream.reach, FakeRecord()))) for _ in range(3)]
    upstream.put(b"a")
    await until(lambda: upstream.opened and upstream.given == begun)
    await asyncio.sleep(0)
    for caller in callers:
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
    assert len(upstream.closed) == 1
    assert isinstance(upstream.closed[0], asyncio.CancelledError)
    assert len(flights) == 0


async def test_a_failure_is_everybodys(flights: Flights, upstream: FakeUpstream) -> None:
    """A refusal before the answer and a break in it reach every caller; the next call flies anew."""
    upstream.refusal = UpstreamRefused(400, b"{}")
    callers = [read(flights.join(KEY, upstream.reach, FakeRecord())) for _ in range(3)]
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(result, UpstreamRefused) for result in results)
    upstream.refusal = None
    upstream.put(b"a", UpstreamFailed("broken"))
    callers = [read(flights.join(KEY, upstream.reach, FakeRecord())) for _ in range(3)]
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(result, UpstreamFailed) for result in results)
    assert upstream.opened == 2
    assert len(flights) == 0


async def test_nobody_joins_a_flight_that_failed(flights: Flights, upstream: FakeUpstream) -> None:
    """While callers still hear of the failure, a new call starts a flight of its own."""
    async with flights.join(KEY, upstream.reach, FakeRecord()) as (_, shared):
        upstream.put(UpstreamFailed("broken"))
        with pytest.raises(UpstreamFailed):
            await anext(shared.blocks())
        upstream.put(b"new", None)
        assert await read(flights.join(KEY, upstream.reach, FakeRecord())) == [b"new"]
    assert upstream.opened == 2


async def test_a_defect_is_everybodys_too(flights: Flights, upstream: FakeUpstream) -> None:
    """An error that nobody foresaw ends every caller, none waits for ever."""
    upstream.refusal = ZeroDivisionError()
    callers = [read(flights.join(KEY, upstream.reach, FakeRecord())) for _ in range(2)]
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(result) for result in results] == [ZeroDivisionError] * 2


async def test_a_stream_ends_at_done(flights: Flights, upstream: FakeUpstream) -> None:
    """After [DONE] the upstream is closed in peace although its body has not ended, and callers know the end."""
    upstream.put(b"data: x\n\n", b"data: [DONE]\n\n")
    assert len(await read(flights.join(KEY, upstream.reach, FakeRecord()))) == 2
    await until(lambda: upstream.closed == [None])


async def test_a_slow_caller_neither_slows_nor_loses(flights: Flights, upstream: FakeUpstream) -> None:
    """The quick one reads on; the slow one gets everything in the end."""
    async with flights.join(KEY, upstream.reach, FakeRecord()) as (_, slow):
        assert not isinstance(slow, FakeUpstream)
        upstream.put(*[b"x"] * 200, None)
        assert len(await read(flights.join(KEY, upstream.reach, FakeRecord()))) == 200
        assert len([block async for block in slow.blocks()]) == 200


async def test_the_flight_waits_for_its_quickest_reader(flights: Flights, upstream: FakeUpstream) -> None:
    """With nobody reading, only so many blocks are taken from the upstream; it goes on when one is read."""
    upstream.put(*[b"x"] * 200, None)
    async with flights.join(KEY, upstream.reach, FakeRecord()) as (_, shared):
        await until(lambda: upstream.given == AHEAD_BLOCKS)
        for _ in range(50):
            await asyncio.sleep(0)
        assert upstream.given == AHEAD_BLOCKS
        assert len([block async for block in shared.blocks()]) == 200


async def test_a_long_answer_is_let_go_of(flights: Flights, upstream: FakeUpstream) -> None:
    """Past the bound nobody joins, and blocks that all have read hold no memory; every caller still gets them all."""
    records = FakeRecord(), FakeRecord()
    async with (
        flights.join(KEY, upstream.reach, records[0]) as (_, quick),
        flights.join(KEY, upstream.reach, records[1]) as (_, slow),
    ):
        upstream.put(*[b"x" * 600] * 4, None)
        ahead = [await anext(quick.blocks()) for _ in range(3)]
        behind = [await anext(slow.blocks()) for _ in range(2)]
        other = FakeUpstream()
        other.opens.set()
        other.put(b"own", None)
        assert await read(flights.join(KEY, other.reach, FakeRecord())) == [b"own"]
        ahead += [block async for block in quick.blocks()]
        behind += [block async for block in slow.blocks()]
    assert ahead == behind == [b"x" * 600] * 4


def bill(*, every_caller_pays: bool = False, accounts: int = 3) -> Bill:
    """The bill of a flight with so many callers."""
    made = Bill(every_caller_pays=every_caller_pays)
    for _ in range(accounts):
        made.opened()
    return made


def test_the_first_to_complete_pays_for_all() -> None:
    """One charge for one upstream call, whoever took the first seat."""
    shared = bill()
    assert shared.charge(Usage(9, 2), complete=False) == Usage()
    assert shared.charge(Usage(9, 4), complete=True) == Usage(9, 4)
    assert shared.charge(Usage(9, 4), complete=True) == Usage()


def test_when_all_leave_the_last_pays_for_the_most() -> None:
    """What the quickest of them was relayed has been made, and is charged."""
    shared = bill()
    assert shared.charge(Usage(9, 2), complete=False) == Usage()
    assert shared.charge(Usage(9, 8), complete=False) == Usage()
    assert shared.charge(Usage(9, 1), complete=False) == Usage(9, 8)


def test_a_leaver_after_payment_pays_nothing() -> None:
    """The answer is paid already."""
    shared = bill(accounts=2)
    assert shared.charge(Usage(9, 4), complete=True) == Usage(9, 4)
    assert shared.charge(Usage(9, 1), complete=False) == Usage()


def test_by_policy_every_caller_pays_its_own() -> None:
    """As if each had called alone."""
    shared = bill(every_caller_pays=True)
    for complete in (True, False, True):
        assert shared.charge(Usage(9, 4), complete=complete) == Usage(9, 4)
