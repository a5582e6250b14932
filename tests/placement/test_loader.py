"""Loading: once, however many wait; checked where the server's word may be stale; remembered where it is final."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

import pytest

from app.placement.control import InvalidAdapter, ReplicaControl, ReplicaError
from app.placement.loader import (
    ATTEMPTS,
    QUIET_SECONDS,
    REMEMBER_FAILED_SECONDS,
    REMEMBER_INVALID_SECONDS,
    TOLD_SECONDS,
    AdapterLoader,
)
from app.placement.replica import IDLE_SECONDS, Replica, new_replica
from app.placement.residency import Level
from tests.placement.adapters import Clock, adapter, pool
from tests.support.replica import FakeReplica, fake_replica


@dataclass(slots=True)
class Bench:
    """A loader, the server it loads on, and what the gateway thinks of that server."""

    loader: AdapterLoader
    server: FakeReplica
    replica: Replica
    clock: Clock
    seen: list[str]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Two GPU slots, four adapters in host memory."""
    seen: list[str] = []
    clock = Clock()
    async with fake_replica() as server, ReplicaControl() as control:
        loader = AdapterLoader(control, clock=clock, observe=lambda *told: seen.append(told[1]), names_per_place=1)
        yield Bench(loader, server, new_replica(pool(server.url), server.url), clock, seen)
        await loader.close()


async def test_a_hundred_callers_make_one_load(bench: Bench) -> None:
    """However many calls need the adapter, the server is asked once, and all go on when it is there."""
    bench.server.hold_loads = asyncio.Event()
    waiting = [asyncio.create_task(bench.loader.ensure(bench.replica, adapter(1))) for _ in range(100)]
    await _until(lambda: bench.server.loading_now == 1)
    assert not any(task.done() for task in waiting)
    bench.server.hold_loads.set()
    await asyncio.gather(*waiting)
    assert bench.server.loads == {adapter(1).id: 1}
    assert bench.replica.residency.level(adapter(1).id) is Level.GPU
    assert bench.seen == ["loaded"]


async def test_a_caller_that_leaves_does_not_stop_the_load(bench: Bench) -> None:
    """The load belongs to all who wait, so it goes on without any one of them, even without all."""
    bench.server.hold_loads = asyncio.Event()
    waiting = [asyncio.create_task(bench.loader.ensure(bench.replica, adapter(1))) for _ in range(3)]
    await _until(lambda: bench.server.loading_now == 1)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    bench.server.hold_loads.set()
    await bench.loader.ensure(bench.replica, adapter(1))
    assert bench.server.loads == {adapter(1).id: 1}


async def test_one_load_at_a_time_on_one_server(bench: Bench) -> None:
    """Each load stalls what the server decodes: different adapters come one after another."""
    await asyncio.gather(*(bench.loader.ensure(bench.replica, adapter(number)) for number in range(4)))
    assert bench.server.most_loading == 1
    assert len(bench.server.names) == 4


async def test_the_least_recently_used_name_makes_room(bench: Bench) -> None:
    """The fifth adapter takes the name of the one that was used longest ago off the server."""
    for number in range(4):
        await bench.loader.ensure(bench.replica, adapter(number))
    await bench.loader.ensure(bench.replica, adapter(0))
    bench.clock.now += IDLE_SECONDS
    await bench.loader.ensure(bench.replica, adapter(4))
    assert set(bench.server.names) == {adapter(number).id for number in (0, 2, 3, 4)}
    assert set(bench.replica.registered) == set(bench.server.names)


async def test_an_adapter_in_use_is_never_unloaded(bench: Bench) -> None:
    """A call in flight keeps its adapter's name; if all are in flight the server takes one more."""
    for number in range(4):
        await bench.loader.ensure(bench.replica, adapter(number))
        bench.replica.enter(adapter(number).id)
    bench.clock.now += IDLE_SECONDS
    await bench.loader.ensure(bench.replica, adapter(4))
    assert len(bench.server.names) == 5
    bench.replica.leave(adapter(2).id)
    await bench.loader.ensure(bench.replica, adapter(5))
    assert adapter(2).id not in bench.server.names
    assert {adapter(number).id for number in (0, 1, 3, 5)} <= set(bench.server.names)


async def test_a_name_used_a_moment_ago_is_never_unloaded(bench: Bench) -> None:
    """Another gateway may have begun a call that it has not told of yet: better one name more than one call less."""
    for number in range(6):
        await bench.loader.ensure(bench.replica, adapter(number))
    assert len(bench.server.names) == 6


async def test_a_name_is_not_registered_again_while_its_old_calls_run(bench: Bench) -> None:
    """VLLM's engine dies of one batch with two registrations of a name: the load waits, or another server is tried."""
    bench.replica.sent(adapter(1).id)
    loading = asyncio.create_task(bench.loader.ensure(bench.replica, adapter(1)))
    await asyncio.sleep(0.05)
    assert not bench.server.names
    bench.replica.ended(adapter(1).id)
    await loading
    assert adapter(1).id in bench.server.names
    bench.replica.heard("another", {adapter(2).id: 1}, {adapter(2).id: 1}, bench.clock())
    loading = asyncio.create_task(bench.loader.ensure(bench.replica, adapter(2)))
    await asyncio.sleep(0.05)
    bench.clock.now += QUIET_SECONDS + 0.1
    with pytest.raises(ReplicaError, match="earlier registration"):
        await loading
    assert adapter(2).id not in bench.server.names


async def test_a_name_that_was_just_taken_off_waits_for_what_others_tell(bench: Bench) -> None:
    """A call that another gateway had begun before the unload is told of within a moment; until then nothing loads."""
    await bench.loader.ensure(bench.replica, adapter(1))
    await bench.loader.unload(bench.replica, adapter(1).id)
    loading = asyncio.create_task(bench.loader.ensure(bench.replica, adapter(1)))
    await asyncio.sleep(0.05)
    assert adapter(1).id not in bench.server.names
    bench.replica.heard("another", {adapter(1).id: 1}, {adapter(1).id: 1}, bench.clock())
    bench.clock.now += TOLD_SECONDS
    await asyncio.sleep(0.05)
    assert adapter(1).id not in bench.server.names, "the other gateway's call runs"
    bench.replica.heard("another", {}, {}, bench.clock())
    await loading
    assert adapter(1).id in bench.server.names


async def test_a_call_during_the_unload_gets_its_adapter_back(bench: Bench) -> None:
    """Asked for while its name is being taken off, an adapter is loaded again, not believed to be there."""
    for number in range(4):
        await bench.loader.ensure(bench.replica, adapter(number))
    bench.clock.now += IDLE_SECONDS
    bench.server.hold_loads = asyncio.Event()
    fifth = asyncio.create_task(bench.loader.ensure(bench.replica, adapter(4)))
    await _until(lambda: bench.server.loading_now == 1)
    again = asyncio.create_task(bench.loader.ensure(bench.replica, adapter(0)))
    await asyncio.sleep(0.02)
    assert not again.done()
    bench.clock.now += TOLD_SECONDS
    bench.server.hold_loads.set()
    await asyncio.gather(fifth, again)
    assert adapter(0).id in bench.server.names
    assert bench.server.loads[adapter(0).id] == 2


async def test_a_lost_answer_is_looked_up(bench: Bench) -> None:
    """The server finished but its answer got lost: its list says so, and nothing is loaded twice."""
    bench.server.cut_load_answers = 1
    await bench.loader.ensure(bench.replica, adapter(1))
    assert bench.server.loads == {adapter(1).id: 1}


async def test_a_time_out_after_the_server_finished_is_looked_up(bench: Bench) -> None:
    """A slow load that ends after our patience counts as soon as the list shows it."""
    bench.replica = new_replica(pool(bench.server.url, load_timeout_seconds=0.2), bench.server.url)
    bench.server.hold_loads = asyncio.Event()
    asyncio.get_running_loop().call_later(0.3, bench.server.hold_loads.set)
    with pytest.raises(TimeoutError):
        await bench.loader.ensure(bench.replica, adapter(1))
    await _until(lambda: adapter(1).id in bench.replica.registered)
    await bench.loader.ensure(bench.replica, adapter(1))
    assert bench.server.loads[adapter(1).id] <= 2


async def test_a_name_that_another_gateway_loaded_is_taken_over(bench: Bench) -> None:
    """The refusal "already loaded" under the same path is as good as loaded."""
    await _by_another_gateway(bench, adapter(1).path)
    await bench.loader.ensure(bench.replica, adapter(1))
    assert [kind for kind, _ in bench.server.requests].count("unload") == 0


async def test_a_name_with_another_path_is_loaded_again(bench: Bench) -> None:
    """The same name with other files is never believed."""
    await _by_another_gateway(bench, "/elsewhere")
    await bench.loader.ensure(bench.replica, adapter(1))
    assert bench.server.names[adapter(1).id].path == adapter(1).path


async def test_a_failed_load_is_tried_again_and_then_remembered(bench: Bench) -> None:
    """Three tries; then for a moment every call is told at once, without asking the server again."""
    bench.server.load_answers = [(500, "out of memory")] * ATTEMPTS
    for _ in range(3):
        with pytest.raises(ReplicaError, match="out of memory"):
            await bench.loader.ensure(bench.replica, adapter(1))
    assert bench.server.loads[adapter(1).id] == ATTEMPTS
    bench.clock.now += REMEMBER_FAILED_SECONDS
    await bench.loader.ensure(bench.replica, adapter(1))
    assert bench.seen == ["failed", "loaded"]


async def test_one_bad_answer_is_not_the_end(bench: Bench) -> None:
    """A load that fails once and then works is a load."""
    bench.server.load_answers = [(500, "try later")]
    await bench.loader.ensure(bench.replica, adapter(1))
    assert bench.server.loads[adapter(1).id] == 2


async def test_a_broken_adapter_is_asked_for_once_in_a_while(bench: Bench) -> None:
    """A refused adapter does not stall the server at every call of a tenant that keeps asking."""
    bench.server.load_answers = [(500, "LoRA rank 64 is greater than max_lora_rank 16.")] * 2
    for _ in range(50):
        with pytest.raises(InvalidAdapter, match="rank 64"):
            await bench.loader.ensure(bench.replica, adapter(1))
        bench.clock.now += REMEMBER_INVALID_SECONDS / 51
    assert bench.server.loads[adapter(1).id] == 1
    bench.clock.now += REMEMBER_INVALID_SECONDS
    with pytest.raises(InvalidAdapter):
        await bench.loader.ensure(bench.replica, adapter(1))
    assert bench.server.loads[adapter(1).id] == 2


async def test_closing_ends_what_is_under_way(bench: Bench) -> None:
    """A stop does not wait for a load, and no task is left behind."""
    bench.server.hold_loads = asyncio.Event()
    waiting = asyncio.create_task(bench.loader.ensure(bench.replica, adapter(1)))
    await _until(lambda: bench.server.loading_now == 1)
    await bench.loader.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def _by_another_gateway(bench: Bench, path: str) -> None:
    async with ReplicaControl() as control:
        await control.load(bench.replica.pool, bench.server.url, replace(adapter(1), path=path))


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)
