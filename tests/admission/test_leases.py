"""The sweep of leases: every one that runs out is charged, and a thousand tenants cost next to nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

from redis.crc import key_slot

from app.admission.leases import INDEX, TAKEN_MS, Leases
from app.admission.redis import RedisAdmission
from app.storage.redis import RedisStore
from app.types import Outcome
from tests.admission.cases import Clock, call, choice, counters, entry, ledger, principal
from tests.support.processes import free_port
from tests.support.redis_server import redis_server

TENANTS = [f"t{number}" for number in range(1000)]


async def commands(store: RedisStore) -> dict[str, int]:
    """How often Redis has run each command since the last look."""
    lines = (await store.command("INFO", "commandstats")).decode().split()
    await store.command("CONFIG", "RESETSTAT")
    return {
        line.split(":")[0].removeprefix("cmdstat_"): int(line.split("calls=")[1].split(",")[0])
        for line in lines
        if "calls=" in line
    }


async def test_a_lease_of_a_silent_tenant_is_charged_when_it_ends(
    admission: RedisAdmission, leases: Leases, store: RedisStore, clock: Clock
) -> None:
    """Not before, and by a sweeper that has never met the tenant's gateway."""
    await leases.sweep(["acme", "bloom"])
    await admission.reserve(principal(), call(), choice(), "r1")
    await clock.add(9.9)
    assert await leases.sweep(["acme", "bloom"]) == 0
    await clock.add(0.2)
    assert await leases.sweep(["acme", "bloom"]) == 1
    assert [line.outcome for line in await ledger(store)] == [Outcome.LOST]


async def test_a_lease_is_found_however_it_lies_to_the_looks(
    admission: RedisAdmission, leases: Leases, store: RedisStore, clock: Clock
) -> None:
    """Made just before or after a look, extended, or beside others that settle: never later than one sweep."""
    lost = set()
    for turn in range(40):
        held = await admission.reserve(principal(), call(), choice(), f"r{turn}")
        if turn % 3 == 0:
            await held.settle(entry(held))
        elif turn % 3 == 1:
            await clock.add(0.7)
            await held.extend(5, 5)
        await clock.add(1.3 + turn % 4)
        await leases.sweep(["acme"])
        lost |= {line.request_id for line in await ledger(store) if line.outcome is Outcome.LOST}
        due = await store.command("ZRANGEBYSCORE", "tg:{acme}:leases", "-inf", clock.now // 1000)
        assert due == []
    assert len(lost) > 10


async def test_a_tenant_that_is_new_is_looked_at_at_once(
    admission: RedisAdmission, leases: Leases, store: RedisStore, clock: Clock
) -> None:
    """Its leases may be old: they are those of a gateway that was killed before it ever swept."""
    await leases.sweep(["bloom"])
    await admission.reserve(principal(), call(), choice(), "r1")
    await clock.add(11)
    assert await leases.sweep(["bloom", "acme"]) == 1


async def test_one_of_several_sweepers_takes_a_tenant_and_its_death_only_delays(
    admission: RedisAdmission, leases: Leases, store: RedisStore, clock: Clock
) -> None:
    """Two at once charge once; what a dead one had taken is taken by another after a while."""
    await leases.sweep(["acme"])
    await admission.reserve(principal(), call(), choice(), "r1")
    await clock.add(11)
    other = Leases(store, lease_seconds=10)
    clock.rule(other)
    assert sorted(await asyncio.gather(leases.sweep(["acme"]), other.sweep(["acme"]))) == [0, 1]
    await admission.reserve(principal(), call(), choice(), "r2")
    await clock.add(11)
    assert await store.run(leases._take, [INDEX], [10, TAKEN_MS]) == [1, [b"acme"]]  # and dies
    assert await leases.sweep(["acme"]) == 0
    await clock.add(TAKEN_MS / 1000)
    assert await leases.sweep(["acme"]) == 1


async def test_the_set_is_made_anew_when_redis_has_lost_it(
    admission: RedisAdmission, leases: Leases, store: RedisStore, clock: Clock
) -> None:
    """The next sweep notices, the one after it finds what is due."""
    await leases.sweep(["acme"])
    await admission.reserve(principal(), call(), choice(), "r1")
    await store.command("DEL", INDEX)
    await clock.add(11)
    assert [await leases.sweep(["acme"]) for _ in range(2)] == [0, 1]


async def test_more_than_a_batch_is_charged_in_one_sweep(
    admission: RedisAdmission, leases: Leases, store: RedisStore, clock: Clock
) -> None:
    """Of one tenant that has many leases, and of many tenants that have one each."""
    for number in range(450):
        await admission.reserve(principal(), call(), choice(), f"r{number}")
    for tenant in TENANTS[:450]:
        await admission.reserve(principal(tenant_id=tenant), call(), choice(), "r1")
    await clock.add(11)
    assert await leases.sweep(["acme", *TENANTS[:450]]) == 900
    assert (await counters(store, "tenant:acme"))["n"] == 0


async def test_a_thousand_tenants_cost_one_script_a_sweep(leases: Leases, store: RedisStore, clock: Clock) -> None:
    """However many gateways sweep; each tenant is looked at once in a lease's time, by one of them."""
    gateways = [leases, *(Leases(store, lease_seconds=10) for _ in range(2))]
    for one in gateways[1:]:
        clock.rule(one)
    for one in gateways:
        await one.sweep(TENANTS)
    await commands(store)
    for one in gateways:
        await one.sweep(TENANTS)
    assert (await commands(store)).get("evalsha") == len(gateways)
    for _ in range(4):
        await clock.add(3)
        for one in gateways:
            await one.sweep(TENANTS)
    sweeps = 4 * len(gateways)
    asked = (await commands(store))["evalsha"]
    assert len(TENANTS) <= asked <= len(TENANTS) + 2 * sweeps


async def test_it_runs_on_a_redis_cluster(tmp_path: Path) -> None:
    """The set has a slot of its own, each tenant's script stays in the tenant's."""
    with redis_server(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server:
        async with RedisStore.connect(server.url, operation_timeout_seconds=10) as store:
            await store.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            async with asyncio.timeout(20):
                while b"cluster_state:ok" not in await store.command("CLUSTER", "INFO"):
                    await asyncio.sleep(0.05)
            leases = Leases(store, lease_seconds=10)
            await RedisAdmission(store).reserve(principal(), call(), choice(), "r1")
            assert await leases.sweep(["acme", "bloom"]) == 0
            assert key_slot(INDEX.encode()) not in {key_slot(b"{acme}"), key_slot(b"{bloom}")}
            assert await store.command("ZCARD", INDEX) == 2
