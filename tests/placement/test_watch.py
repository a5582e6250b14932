"""The rounds over the servers: found, relieved of what nobody can call, warmed, and never made worse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from app.errors import Unavailable
from app.placement.control import InvalidAdapter, ReplicaControl
from app.placement.discovery import Discovery
from app.placement.effect import EffectCheck, agrees, differs
from app.placement.loader import AdapterLoader
from app.placement.placement import ReplicaPlacement
from app.placement.replica import Replica, new_replica
from app.placement.replicas import ReplicaSet
from app.placement.watch import DRAIN_SECONDS, Watch
from app.types import AdapterVersion, Pool
from tests.placement.adapters import Clock, adapter, on_pool, pool
from tests.support.replica import FakeReplica, fake_replica


@dataclass(slots=True)
class Bench:
    """A watch over one fake server, with time and policy in the test's hand."""

    server: FakeReplica
    servers: ReplicaSet
    loader: AdapterLoader
    watch: Watch
    clock: Clock
    served: dict[str, AdapterVersion]
    revived: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)

    @property
    def replica(self) -> Replica:
        """What the gateway thinks of the server."""
        return self.servers.replicas[self.server.url]

    async def round(self) -> None:
        """One round."""
        await self.watch.look()
        await self.watch.tend()


@asynccontextmanager
async def _bench(**fields: Any) -> AsyncIterator[Bench]:
    async with fake_replica() as server, ReplicaControl() as control:
        clock, served, revived = Clock(), dict[str, AdapterVersion](), list[str]()
        sources = [server.url]

        async def lookup(_source: str) -> list[str]:
            return sources

        made = pool("dns://servers:1", **fields)
        servers = ReplicaSet(made, clock=clock, usable=bool)
        loader = AdapterLoader(control, clock=clock)
        watch = Watch(
            {"pool": servers},
            control,
            loader,
            clock=clock,
            served=lambda: served,
            revived=revived.append,
            discovery=Discovery({"dns": lookup}),
        )
        await watch.look()
        yield Bench(server, servers, loader, watch, clock, served, revived, sources)
        await loader.close()


async def test_servers_come_and_go() -> None:
    """A server that is found takes calls once it has answered a probe; one that is gone takes none."""
    async with _bench() as bench, fake_replica() as second:
        assert bench.replica.healthy
        bench.sources[:] = [bench.server.url, second.url]
        await bench.round()
        assert bench.servers.replicas[second.url].healthy
        bench.sources[:] = [second.url]
        await bench.round()
        assert set(bench.servers.replicas) == {second.url}


async def test_a_server_that_comes_back_is_told_to_the_breakers() -> None:
    """Its breaker closes at once instead of after a cool-down."""
    async with _bench() as bench:
        bench.revived.clear()
        bench.server.healthy = False
        for _ in range(2):
            await bench.round()
        assert not bench.replica.healthy
        bench.server.healthy = True
        await bench.round()
        assert bench.replica.healthy
        assert bench.revived == [bench.server.url]


async def test_servers_that_are_away_are_asked_by_themselves() -> None:
    """The look between two rounds finds a server that is back, and leaves those that are well alone."""
    async with _bench() as bench, fake_replica() as second:
        bench.sources[:] = [bench.server.url, second.url]
        bench.server.healthy = second.healthy = False
        for _ in range(2):
            await bench.round()
        second.healthy = True
        await bench.watch.look_for_lost()
        assert bench.servers.replicas[second.url].healthy
        assert not bench.replica.healthy
        second.healthy = False
        for _ in range(2):
            await bench.watch.look_for_lost()
        assert bench.servers.replicas[second.url].healthy, "nobody has asked it"


async def test_a_version_that_nobody_can_call_drains_and_goes() -> None:
    """After a swap the old version stays while calls run on it and a while longer, then its name is taken off."""
    async with _bench() as bench:
        old, new = adapter(1), adapter(2)
        bench.served[old.id] = old
        await bench.loader.ensure(bench.replica, old)
        bench.replica.enter(old.id)
        del bench.served[old.id]
        bench.served[new.id] = new
        for _ in range(3):
            bench.clock.now += DRAIN_SECONDS
            await bench.round()
        assert old.id in bench.server.names
        bench.replica.leave(old.id)
        await bench.round()
        assert old.id in bench.server.names, "a gateway with an older policy may still send calls"
        bench.clock.now += DRAIN_SECONDS
        await bench.round()
        assert old.id not in bench.server.names


async def test_what_is_not_ours_stays() -> None:
    """An adapter that an operator loaded by hand is not touched."""
    async with _bench() as bench:
        other = AdapterVersion("by-hand", "x", "x", "0" * 64, "/by-hand", "base", 8)
        async with ReplicaControl() as control:
            await control.load(bench.replica.pool, bench.server.url, other)
        for _ in range(3):
            bench.clock.now += DRAIN_SECONDS
            await bench.round()
        assert "by-hand" in bench.server.names


async def test_chosen_tenants_are_warm_before_they_call() -> None:
    """keep_warm loads a tenant's adapters into an idle server; a busy one is left alone."""
    async with _bench(keep_warm=frozenset({"acme"})) as bench:
        bench.served |= {version.id: version for version in (adapter(1), adapter(2), adapter(3, tenant="bloom"))}
        for number in range(2):
            bench.replica.enter(f"busy-{number}")
        await bench.round()
        assert not bench.server.names
        for number in range(2):
            bench.replica.leave(f"busy-{number}")
        await bench.round()
        assert set(bench.server.names) == {adapter(1).id, adapter(2).id}


async def test_the_hottest_come_back_after_a_restart() -> None:
    """A server that lost everything is warmed with what many call, before they call again."""
    async with _bench() as bench:
        bench.served[adapter(7).id] = adapter(7)
        for _ in range(10):
            bench.servers.called(adapter(7).id)
        await bench.round()
        assert adapter(7).id in bench.server.names
        bench.server.restart()
        bench.clock.now += 1
        await bench.round()
        assert adapter(7).id in bench.server.names


async def test_a_bad_server_does_not_stop_the_round() -> None:
    """A load that fails ahead of any call is tried again another time."""
    async with _bench(keep_warm=frozenset({"acme"})) as bench:
        bench.served[adapter(1).id] = adapter(1)
        bench.server.load_answers = [(500, "out of memory")] * 3
        await bench.round()
        assert not bench.server.names
        bench.clock.now += 2
        await bench.round()
        assert adapter(1).id in bench.server.names


async def test_an_adapter_without_effect_is_never_served() -> None:
    """A server that accepts an adapter and answers like its base model is found out before the first call."""
    async with fake_replica() as server, ReplicaPlacement({}, {"pool": pool(server.url)}) as placement:
        server.without_effect.add(adapter(1).id)
        with pytest.raises(Unavailable, match="cannot load"):
            async with placement.place(on_pool(adapter(1)), "me"):
                pass
        assert adapter(1).id not in server.names
        async with placement.place(on_pool(adapter(2)), "me") as endpoint:
            assert endpoint.model == adapter(2).id


async def test_the_effect_is_looked_for_once_a_version_and_pool() -> None:
    """The second load of a version costs no probe, and a pool may do without."""
    async with fake_replica() as server, ReplicaControl() as control:
        check = EffectCheck(control)
        replica = new_replica(pool(server.url), server.url)
        await control.load(replica.pool, server.url, adapter(1))
        await check(replica, adapter(1))
        server.without_effect.add(adapter(1).id)
        await check(replica, adapter(1))
        with pytest.raises(InvalidAdapter, match="no effect"):
            await EffectCheck(control)(replica, adapter(1))
        trusting = new_replica(pool(server.url, check_effect=False), server.url)
        await EffectCheck(control)(trusting, adapter(1))


async def test_a_base_that_is_misread_under_traffic_condemns_no_adapter() -> None:
    """A base call that is answered by the adapter itself (vLLM's CPU build does) yields to an earlier reading."""
    async with fake_replica() as server, ReplicaControl() as control:
        check = EffectCheck(control)
        replica = new_replica(pool(server.url), server.url)
        await check.learn(replica)
        await control.load(replica.pool, server.url, adapter(1))
        server.without_effect.add(adapter(1).id)
        with pytest.raises(InvalidAdapter, match="no effect"):
            await check(replica, adapter(1))
        await control.load(replica.pool, server.url, adapter(2))
        misread = replace(replica.pool, base_model=adapter(2).id)
        await check(replace(replica, pool=misread), adapter(2))


def test_small_differences_are_rounding() -> None:
    """Other tokens or clearly other probabilities differ; the last digits do not."""
    assert not differs([{"a": -1.0}], [{"a": -1.000001}])
    assert differs([{"a": -1.0}], [{"a": -1.01}])
    assert differs([{"a": -1.0}], [{"b": -1.0}])
    assert differs([{"a": -1.0}, {"a": -1.0}], [{"a": -1.0}, {"a": -2.0}])


async def test_a_call_waits_for_room_rather_than_behind_too_many_adapters() -> None:
    """With too many adapters in flight a call of another one is held until a call ends, or refused in time."""
    async with fake_replica() as server:
        pools = {"pool": pool(server.url, max_loras=1, max_cpu_loras=8, load_timeout_seconds=0.3)}
        async with ReplicaPlacement({}, pools) as placement:
            held = [placement.place(on_pool(adapter(number)), "me") for number in range(4)]
            for call in held:
                await call.__aenter__()

            async def fifth() -> str:
                async with placement.place(on_pool(adapter(4)), "me") as endpoint:
                    return endpoint.model

            with pytest.raises(Unavailable, match="waits"):
                await fifth()
            waiting = asyncio.create_task(fifth())
            await asyncio.sleep(0.02)
            assert not waiting.done()
            await held[0].__aexit__(None, None, None)
            assert await waiting == adapter(4).id
            for call in held[1:]:
                await call.__aexit__(None, None, None)


async def test_a_high_rank_goes_to_the_pool_of_its_class() -> None:
    """Pools of one family share a base model; an adapter goes to the smallest that takes its rank."""
    async with fake_replica() as small, fake_replica() as large, fake_replica() as other:
        pools: dict[str, Pool] = {
            "pool": pool(small.url, max_lora_rank=8, family="tiny"),
            "large": pool(large.url, name="large", max_lora_rank=64, family="tiny"),
            "other": pool(other.url, name="other", max_lora_rank=16, family="another"),
        }
        async with ReplicaPlacement({}, pools) as placement:
            for rank, expected in ((8, small), (16, large), (64, large)):
                version = AdapterVersion(f"t--r{rank}@{rank:012}", "t", "r", "0" * 64, f"/r{rank}", "base", rank)
                async with placement.place(on_pool(version), "me") as endpoint:
                    assert endpoint.replica == expected.url
            version = AdapterVersion("t--r@000000000999", "t", "r", "0" * 64, "/r", "base", 128)
            with pytest.raises(Unavailable, match="rank is 128"):
                async with placement.place(on_pool(version), "me"):
                    pass


async def test_a_server_that_answers_otherwise_than_the_maker_said_is_refused() -> None:
    """The reference of the registration is what counts: right weights under the right name, on every pool."""
    async with fake_replica() as server, ReplicaControl() as control:
        replica = new_replica(pool(server.url), server.url)
        await control.load(replica.pool, server.url, adapter(1))
        told = await control.next_token(replica.pool, server.url, adapter(1).id, "Hello")
        right = replace(adapter(1), reference=(("Hello", tuple(told.items())),))
        await EffectCheck(control)(replica, right)
        for wrong in ({"x": told["x"] - 1.0}, {"y": -0.1, "x": -3.0}):
            await control.load(replica.pool, server.url, adapter(2))
            with pytest.raises(InvalidAdapter, match="otherwise"):
                await EffectCheck(control)(replica, replace(adapter(2), reference=(("Hello", tuple(wrong.items())),)))
            assert adapter(2).id not in server.names


def test_another_number_format_is_no_other_adapter() -> None:
    """Probabilities may move a little between machines; another likeliest token may not."""
    assert agrees({"a": -0.1, "b": -2.0}, {"a": -0.3, "b": -2.2, "c": -4.0})
    assert not agrees({"a": -0.1, "b": -2.0}, {"b": -0.1})
    assert not agrees({"a": -0.1}, {"a": -0.9})
