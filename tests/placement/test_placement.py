"""From a target to a server with the adapter on it, whatever servers do meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest

from app.backends.failover import Failover
from app.backends.health import Health, RetryBudget
from app.backends.provider import HttpBackend
from app.errors import Unavailable
from app.placement.placement import NOBODY, ReplicaPlacement
from app.placement.rendezvous import rank
from app.placement.reports import PlacementReports
from app.types import Provider, Target
from tests.backends.calls import Noted, call, choice
from tests.placement.adapters import adapter, on_pool, pool
from tests.support.replica import FakeReplica, fake_replica


@dataclass(slots=True)
class Fleet:
    """Servers with a gateway's own way to them."""

    servers: list[FakeReplica]
    placement: ReplicaPlacement
    failover: Failover

    async def ask(self, target: Target, affinity: str = "me") -> str:
        """What the model says, over the whole way: place, load, send, fall over."""
        reached = self.failover.reach(choice(target), call(), Noted(), "req", affinity)
        async with asyncio.timeout(30), reached as (_, upstream):
            body = b"".join([block async for block in upstream.blocks()])
        said: str = msgspec.json.decode(body)["choices"][0]["message"]["content"]
        return said

    def holding(self, name: str) -> list[FakeReplica]:
        """The servers that know this name."""
        return [server for server in self.servers if name in server.names]


@asynccontextmanager
async def fleet(count: int, *, reports: PlacementReports = NOBODY, **fields: Any) -> AsyncIterator[Fleet]:
    """So many servers, one pool."""
    sizes = {name: fields[name] for name in ("max_loras", "max_cpu_loras") if name in fields}
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(fake_replica(FakeReplica(**sizes))) for _ in range(count)]
        async with connected(servers, reports, **fields) as connected_fleet:
            yield connected_fleet


@asynccontextmanager
async def connected(
    servers: Sequence[FakeReplica], reports: PlacementReports = NOBODY, **fields: Any
) -> AsyncIterator[Fleet]:
    """One gateway process in front of these servers."""
    health = Health()
    pools = {"pool": pool(*(server.url for server in servers), **fields)}
    async with (
        ReplicaPlacement({}, pools, breakers=health, reports=reports, reconcile_seconds=0.05) as placement,
        HttpBackend() as backend,
    ):
        watching = asyncio.create_task(placement.run())
        try:
            yield Fleet(list(servers), placement, Failover(placement, backend, backend, health, RetryBudget()))
        finally:
            watching.cancel()


async def test_an_adapter_is_loaded_where_it_is_needed() -> None:
    """The first call loads it on one server, later ones find it there."""
    async with fleet(3) as servers:
        for _ in range(5):
            assert await servers.ask(on_pool(adapter(1))) == adapter(1).path
        assert [server.loads.total() for server in servers.holding(adapter(1).id)] == [1]


async def test_where_calls_are_is_told() -> None:
    """A call waits for its adapter's load, then runs, then is gone; how long it waited is told when it is sent."""
    placed: list[tuple[str, float]] = []
    async with fleet(1, reports=PlacementReports(placed=lambda *told: placed.append(told))) as servers:

        def there() -> tuple[int, int, int]:
            (one,) = servers.placement.status()[0].replicas
            return one.held, one.loading, one.running

        servers.servers[0].hold_loads = asyncio.Event()
        async with AsyncExitStack() as calls:
            asked = asyncio.create_task(calls.enter_async_context(servers.placement.place(on_pool(adapter(1)), "me")))
            async with asyncio.timeout(10):
                while there() != (0, 1, 0):
                    await asyncio.sleep(0.01)
            assert not placed
            servers.servers[0].hold_loads.set()
            await asked
            assert there() == (0, 0, 1)
            ((pool_name, seconds),) = placed
            assert pool_name == "pool"
            assert seconds > 0
        assert there() == (0, 0, 0)


async def test_the_base_model_is_only_what_is_asked_for() -> None:
    """A target without adapter is the base; one with an adapter is never the base."""
    async with fleet(1) as servers:
        assert await servers.ask(on_pool()) == "base"
        servers.servers[0].load_answers = [(500, "LoRA rank 64 is greater than max_lora_rank 16.")] * 10
        with pytest.raises(Unavailable) as caught:
            await servers.ask(on_pool(adapter(1)))
        assert dict(caught.value.headers)[b"retry-after"]
        assert servers.servers[0].calls == {"base": 1}


async def test_a_lost_adapter_is_loaded_again_in_the_same_call() -> None:
    """A restarted server says 404 once; the caller does not notice."""
    async with fleet(1) as servers:
        await servers.ask(on_pool(adapter(1)))
        servers.servers[0].restart()
        assert await servers.ask(on_pool(adapter(1))) == adapter(1).path


async def test_a_server_that_cannot_load_is_passed_over() -> None:
    """The next server in the adapter's order takes the call."""
    async with fleet(2) as servers:
        await servers.ask(on_pool(adapter(1)))
        (home,) = servers.holding(adapter(1).id)
        home.restart()
        home.load_answers = [(500, "no space left on device")] * 3
        assert await servers.ask(on_pool(adapter(1))) == adapter(1).path


async def test_servers_that_have_refused_an_adapter_are_not_asked_again_before_the_others() -> None:
    """Two of five lack its files: the first call may find only those, the next one finds another."""
    async with fleet(5) as servers:
        replicas = servers.placement._sets["pool"]
        order = rank(adapter(1).id, tuple(replicas.replicas))
        for server in servers.servers:
            if server.url in order[:2]:
                server.load_answers = [(404, "No adapter found")] * 9
        with suppress(Unavailable):
            await servers.ask(on_pool(adapter(1)))
        assert await servers.ask(on_pool(adapter(1))) == adapter(1).path
        assert all(server.url in order[2:] for server in servers.holding(adapter(1).id))


async def test_a_load_that_takes_too_long_is_refused_with_a_time() -> None:
    """Waiting for a cold adapter is bounded: 503 with Retry-After, never another model."""
    async with fleet(1, load_timeout_seconds=0.1) as servers:
        servers.servers[0].hold_loads = asyncio.Event()
        with pytest.raises(Unavailable, match="still being loaded") as caught:
            await servers.ask(on_pool(adapter(1)))
        assert dict(caught.value.headers)[b"retry-after"] == b"2"
        assert not servers.servers[0].calls


async def test_an_unknown_pool_or_provider_is_unavailable() -> None:
    """A route that names what is not configured here is refused, not crashed on."""
    async with fleet(1) as servers:
        for target in (Target("nowhere", "m", on_pool().price, is_pool=True), Target("nowhere", "m", on_pool().price)):
            with pytest.raises(Unavailable, match="not configured"):
                async with servers.placement.place(target, "me"):
                    pass


async def test_a_providers_address_is_its_own() -> None:
    """A provider needs no placing: its key and its times are the configuration's."""
    named = Provider("openai", "https://api.example", "sk-1", first_byte_timeout_seconds=9.0)
    async with ReplicaPlacement({"openai": named}, {}) as placement:
        async with placement.place(Target("openai", "gpt", on_pool().price), "me") as endpoint:
            assert endpoint.headers == {"authorization": "Bearer sk-1"}
            assert (endpoint.model, endpoint.replica, endpoint.first_byte_timeout_seconds) == ("gpt", None, 9.0)
        async with placement.place(Target("embedded", "minilm", on_pool().price, is_embedded=True), "me") as endpoint:
            assert endpoint.model == "minilm"


async def test_a_call_in_flight_keeps_its_adapter_registered() -> None:
    """While a stream runs its name is not unloaded, however many other adapters come."""
    async with fleet(1) as servers, servers.placement.place(on_pool(adapter(0)), "me"):
        for number in range(1, 8):
            await servers.ask(on_pool(adapter(number)))
        assert servers.holding(adapter(0).id)


async def test_readiness_names_the_pool_without_a_server() -> None:
    """A pool whose servers are all away is not ready, and says which it is."""
    async with fleet(1) as servers:
        assert await servers.placement.check() is None
        servers.servers[0].healthy = False
        async with asyncio.timeout(10):
            while await servers.placement.check() is None:
                await asyncio.sleep(0.01)
        assert "pool" in str(await servers.placement.check())
        (told,) = servers.placement.status()
        assert [(one.url, one.healthy) for one in told.replicas] == [(servers.servers[0].url, False)]


async def test_a_restart_is_noticed_and_its_names_are_forgotten() -> None:
    """Within a round of comparison the mirror is empty again."""
    async with fleet(1) as servers:
        await servers.ask(on_pool(adapter(1)))
        servers.servers[0].restart()
        replica = servers.placement._sets["pool"].replicas[servers.servers[0].url]
        async with asyncio.timeout(10):
            while replica.registered:
                await asyncio.sleep(0.01)
        assert replica.restarts == 1
        assert replica.residency.host == ()


async def test_many_adapters_under_zipf_with_restarts_are_never_wrong() -> None:
    """Three servers of four places, forty adapters, two gateways, servers restarting: no wrong answer and no error."""
    dice = random.Random(7)
    async with fleet(3) as one, connected(one.servers) as other:

        async def caller(count: int) -> None:
            for _ in range(count):
                number = min(39, int(dice.paretovariate(0.9)) - 1)
                gateway = dice.choice((one, other))
                assert await gateway.ask(on_pool(adapter(number))) == adapter(number).path

        async def trouble() -> None:
            for _ in range(6):
                await asyncio.sleep(0.1)
                dice.choice(one.servers).restart()

        await asyncio.gather(trouble(), *(caller(50) for _ in range(16)))
        for server in one.servers:
            mirror = one.placement._sets["pool"].replicas[server.url]
            assert not mirror.in_flight


async def test_every_server_away_is_a_clear_refusal() -> None:
    """Nobody answers: 503 with Retry-After, within the load time."""
    async with fake_replica() as server:
        address = server.url
    async with ReplicaPlacement({}, {"pool": pool(address)}) as placement:
        with pytest.raises(Unavailable) as caught:
            async with placement.place(on_pool(adapter(1)), "me"):
                pass
        assert dict(caught.value.headers)[b"retry-after"]


async def test_a_pool_whose_probes_are_late_still_answers() -> None:
    """Servers that call themselves ill, but work, are used when nobody is well."""
    async with fleet(2) as servers:
        for server in servers.servers:
            server.healthy = False
        async with asyncio.timeout(10):
            while any(one.healthy for one in servers.placement.status()[0].replicas):
                await asyncio.sleep(0.01)
        assert await servers.ask(on_pool(adapter(1))) == adapter(1).path


async def test_every_tenant_has_its_own_salt_on_our_servers() -> None:
    """Two tenants on the same base model never share a prefix; one tenant's salt is the same in every gateway."""
    async with fleet(1) as one, connected(one.servers) as other:
        salts = []
        for gateway, tenant in ((one, "acme"), (one, "bloom"), (other, "acme")):
            async with gateway.placement.place(replace(on_pool(), tenant_id=tenant), "me") as endpoint:
                salts.append(endpoint.cache_salt)
        assert salts[0] == salts[2] != salts[1]
        assert all(salts)


async def test_a_tenants_patience_is_its_own() -> None:
    """A cold adapter is waited for as long as the tenant says; then the version before it answers, if it may."""
    async with fleet(1, load_timeout_seconds=20.0) as servers:
        old, new = on_pool(adapter(1)), replace(on_pool(adapter(2)), cold_wait_ms=50)
        await servers.ask(old)
        servers.servers[0].hold_loads = asyncio.Event()
        with pytest.raises(Unavailable):
            await servers.ask(new)
        reached = servers.failover.reach(choice(new, old), call(), Noted(), "req", "me")
        async with asyncio.timeout(10), reached as (target, _):
            assert target.model == adapter(1).id
        servers.servers[0].hold_loads.set()
        async with asyncio.timeout(10):
            while not servers.holding(adapter(2).id):
                await asyncio.sleep(0.01)
        assert await servers.ask(new) == adapter(2).path


async def test_an_operator_sees_what_is_where_and_what_was_refused() -> None:
    """The status names what each server holds, and the server's own words for what it would not load."""
    async with fleet(1) as servers:
        await servers.ask(on_pool(adapter(1)))
        servers.servers[0].load_answers = [(500, "LoRA rank 64 is greater than max_lora_rank 16.")]
        with pytest.raises(Unavailable):
            await servers.ask(on_pool(adapter(2)))
        (told,) = servers.placement.status()
        (one,) = told.replicas
        assert (told.name, told.base_model, one.healthy, one.in_flight) == ("pool", "base", True, 0)
        assert one.registered == one.gpu == one.host == [adapter(1).id]
        assert one.refused == {adapter(2).id: "LoRA rank 64 is greater than max_lora_rank 16."}


async def test_a_call_without_a_slot_is_held_before_anything_is_loaded_for_it() -> None:
    """It pushes nothing out while it waits; then it takes at most half of its time from the load."""
    async with fleet(1, max_loras=1, load_timeout_seconds=20.0) as servers:
        (server,) = servers.servers
        (replica,) = servers.placement._sets["pool"].replicas.values()
        server.hold_calls = asyncio.Event()
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(servers.ask(on_pool(adapter(1))))
            while not server.calls_now:
                await asyncio.sleep(0.01)
            replica.pace.ran(60.0)
            group.create_task(servers.ask(on_pool(adapter(2))))
            while not replica.held:
                await asyncio.sleep(0.01)
            assert not server.loads[adapter(2).id]
            group.create_task(servers.ask(replace(on_pool(adapter(3)), cold_wait_ms=4000)))
            while not server.calls[adapter(3).id]:
                await asyncio.sleep(0.01)
            assert replica.held == {adapter(2).id: 1}
            server.hold_calls.set()
        assert server.calls == {adapter(number).id: 1 for number in (1, 2, 3)}
        assert not replica.held
