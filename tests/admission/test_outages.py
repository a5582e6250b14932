from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.admission.leases import Leases
from app.admission.redis import AdmissionConfig, Outstanding, RedisAdmission
from app.errors import Unavailable
from app.storage.redis import RedisStore
from app.types import Limits
from tests.admission.cases import call, choice, counters, entry, ledger, principal, swept
from tests.support.redis_server import RedisServer, redis_server

WHO = principal(tenant=Limits(budget_day_microusd=10**9))
WAIT = 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of this test's own that keeps what it was told over a kill."""
    with redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as running:
        yield running


async def test_without_redis_a_call_is_refused_with_503(server: RedisServer) -> None:
    """No budget can be promised, so nothing is admitted; the answer says to try again."""
    async with RedisStore.connect(server.url) as store:
        admission = RedisAdmission(store)
        server.kill()
        with pytest.raises(Unavailable) as refused:
            await admission.reserve(WHO, call(), choice(), "r1")
    assert refused.value.status == 503
    assert (b"retry-after", b"1") in refused.value.headers


async def test_counts_are_exact_over_a_stopping_redis(server: RedisServer) -> None:
    """Stopped and continued at random under load: afterwards the counters are the calls that were made, to the unit."""
    chance = random.Random(3)
    cost = made = refused = 0
    async with RedisStore.connect(server.url) as store:
        admission = RedisAdmission(store, AdmissionConfig(lease_seconds=60))

        async def caller(name: int) -> None:
            nonlocal cost, made, refused
            for turn in range(30):
                try:
                    held = await admission.reserve(WHO, call(), choice(), f"r{name}-{turn}")
                except Unavailable:
                    refused += 1
                    await asyncio.sleep(0.01)
                    continue
                await asyncio.sleep(chance.random() / 50)
                done = entry(held, completion=chance.randrange(20))
                made, cost = made + 1, cost + done.cost_microusd
                await held.settle(done)

        async def weather() -> None:
            while True:
                await asyncio.sleep(chance.random() / 10)
                server.pause()
                await asyncio.sleep(chance.random() / 5)
                server.go_on()

        blowing = asyncio.create_task(weather())
        await asyncio.gather(*(caller(name) for name in range(20)))
        blowing.cancel()
        await asyncio.gather(blowing, return_exceptions=True)
        server.go_on()
        async with asyncio.timeout(WAIT):
            await store.connected()
            await admission.drain()
    async with RedisStore.connect(server.url, operation_timeout_seconds=5) as store:
        after, entries = await counters(store, "tenant:acme"), await ledger(store)
    assert refused > 0
    assert (after["dc"], after["n"], after["hc"]) == (cost, 0, 0)
    assert len(entries) == made
    assert sum(entry.cost_microusd for entry in entries) == cost


async def test_a_settlement_outlives_a_killed_redis(server: RedisServer) -> None:
    """Redis is killed while a call runs and comes back later: the call is charged once, and nothing stays held."""
    async with RedisStore.connect(server.url, operation_timeout_seconds=2) as store:
        admission = RedisAdmission(store)
        held = [await admission.reserve(WHO, call(), choice(), f"r{i}") for i in range(20)]
        server.kill()
        await asyncio.gather(*(one.settle(entry(one)) for one in held))
        server.start()
        async with asyncio.timeout(WAIT):
            await store.connected()
            await admission.drain()
    async with RedisStore.connect(server.url, operation_timeout_seconds=5) as store:
        assert await swept(Leases(store, lease_seconds=900), store) == Outstanding(0, 0)
        assert (await counters(store, "tenant:acme"))["dc"] == 20 * 20
        assert len(await ledger(store)) == 20
