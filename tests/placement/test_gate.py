"""Holding calls back before a server: newcomers find slots, those held share one, and nobody is held for ever."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.placement.gate import RUNS_REMEMBERED, RUNS_TO_HOLD, SLOTS_PER_KEPT, Pace, may_go
from app.placement.replica import Replica
from app.placement.replicas import ReplicaSet
from tests.placement.adapters import Clock, pool

SLOTS = SLOTS_PER_KEPT  # of which one is kept for newcomers
LONG = 60.0


class Server:
    """One server with all of its slots taken by running calls, and calls that come to it one after another."""

    def __init__(self, *, slots: int = SLOTS, run_seconds: float = LONG) -> None:
        self.set = ReplicaSet(pool("http://a", max_loras=slots), clock=Clock(), usable=bool)
        self.replica: Replica = self.set.replicas["http://a"]
        self.replica.pace.ran(run_seconds)
        self.gone: list[str] = []
        for number in range(slots):
            self.replica.enter(f"running-{number}")

    def end(self, model: str) -> None:
        """A call that has gone there ends."""
        self.set.leave(self.replica, model)

    async def come(self, model: str, *, at_most: float = LONG) -> None:
        """One call, until it goes."""
        self.replica.enter(model)
        await self.set.wait_for_slot(self.replica, model, at_most=at_most)
        self.gone.append(model)


async def _settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@given(st.booleans(), st.integers(-4, 64), st.integers(1, 64), st.booleans())
def test_a_call_goes_where_its_adapter_runs_or_a_slot_is_free(runs: bool, free: int, slots: int, held: bool) -> None:
    """With its adapter always, without a free slot never else; who was held never before a newcomer would be."""
    goes = may_go(runs=runs, free=free, slots=slots, held=held)
    assert goes or not runs
    if not runs:
        assert not (goes and free <= 0)
        assert goes or held or free <= 0
        assert not held or goes is (free > slots // SLOTS_PER_KEPT)


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=300))
def test_the_hold_follows_how_long_calls_run(seconds: list[float]) -> None:
    """So many mean running times, of the last calls: between the shortest and the longest of all."""
    pace = Pace()
    assert pace.hold_seconds == 0
    for ran in seconds:
        pace.ran(ran)
    assert min(seconds) * 0.999 <= pace.hold_seconds / RUNS_TO_HOLD <= max(seconds) * 1.001


def test_the_pace_of_long_ago_fades() -> None:
    """Calls that have become short are soon held back shortly."""
    pace = Pace()
    for ran in [100.0] * RUNS_REMEMBERED + [1.0] * 10 * RUNS_REMEMBERED:
        pace.ran(ran)
    assert pace.hold_seconds == pytest.approx(RUNS_TO_HOLD, rel=0.01)


async def test_without_a_slot_a_call_is_held_and_a_newcomer_has_the_next_one() -> None:
    """One slot stays for newcomers; with a second one the call that was held longest goes."""
    server = Server()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for name in ("first", "second"):
            group.create_task(server.come(name))
        await _settle()
        server.end("running-0")
        await _settle()
        assert server.gone == []
        await server.come("newcomer")
        for number in (1, 2):
            server.end(f"running-{number}")
        await _settle()
        assert server.gone == ["newcomer", "first"]
        server.end("running-3")
    assert server.gone == ["newcomer", "first", "second"]
    assert not server.replica.held


async def test_calls_that_were_held_share_one_slot() -> None:
    """As soon as their adapter runs, for whichever call, all go."""
    server = Server()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(server.come("same"))
        group.create_task(server.come("other"))
        await _settle()
        server.end("running-0")
        await server.come("same")
        await _settle()
        assert server.gone == ["same"] * 4
        assert server.replica.held == {"other": 1}
        for number in (1, 2):
            server.end(f"running-{number}")


async def test_the_base_model_and_what_runs_there_wait_for_nothing() -> None:
    """They need no further slot; what another gateway runs there counts too."""
    server = Server()
    server.replica.heard("other gateway", {"elsewhere": 1}, {"elsewhere": 1}, 0.0)
    async with asyncio.timeout(10):
        for name in ("base", "running-3", "elsewhere"):
            await server.come(name)


async def test_a_hold_ends_by_itself() -> None:
    """After some running times, or the time that the call may wait, it goes to the server's own queue."""
    async with asyncio.timeout(10):
        await Server(run_seconds=0.001).come("patient")
        await Server().come("impatient", at_most=0.01)


async def test_nothing_is_held_before_it_is_known_how_long_calls_run() -> None:
    """A server that has just been found takes its first calls as they come."""
    server = Server()
    server.replica.pace = Pace()
    async with asyncio.timeout(10):
        await server.come("early")


async def test_a_server_of_few_slots_keeps_none() -> None:
    """The next free slot goes to who was held."""
    server = Server(slots=2)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(server.come("held"))
        await _settle()
        assert server.gone == []
        server.end("running-0")
    assert server.gone == ["held"]


async def test_a_call_that_is_cancelled_in_hold_leaves_no_trace() -> None:
    """A caller that has gone takes no slot and is not counted."""
    server = Server()
    task = asyncio.create_task(server.come("gone"))
    await _settle()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert not server.replica.held
    server.end("gone")
    assert server.replica.distinct_adapters == SLOTS


async def test_what_another_gateway_ends_frees_a_slot() -> None:
    """What is heard wakes those held."""
    server = Server(slots=2)
    server.end("running-0")
    server.replica.heard("other gateway", {"elsewhere": 1}, {"elsewhere": 1}, 0.0)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(server.come("held"))
        await _settle()
        assert server.gone == []
        server.replica.heard("other gateway", {}, {}, 0.5)
    assert server.gone == ["held"]
