"""Redis stopped, slowed, cut and killed under load: exact counts, bounded waits, quick recovery."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from app.admission.redis import AdmissionConfig, RedisAdmission
from app.errors import GatewayError
from app.storage.redis import RedisStore
from app.types import Limits
from tests.admission.cases import call, choice, counters, entry, ledger, principal
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.redis_server import RedisServer, redis_server

Fault = Callable[[], Awaitable[None]]
WHO = principal(tenant=Limits(budget_day_microusd=10**12))
CALLERS = 20
SETTLED_SECONDS = 30
BEAT_SECONDS = 0.002


@dataclass(slots=True)
class Weather:
    """The figures: waits and recoveries in milliseconds."""

    made: int = 0
    refused: int = 0
    cost: int = 0
    waits: list[float] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    off_by: int = 0
    stalled: float = 0.0  # seconds in which this process did not get to run: no wait for Redis
    beat: float = field(default_factory=time.perf_counter)

    def clock(self) -> float:
        """Seconds in which this process ran; one that stands still at this moment has not run since the last beat."""
        now = time.perf_counter()
        return now - self.stalled - max(0.0, now - self.beat - BEAT_SECONDS)

    @property
    def longest_wait_ms(self) -> float:
        """The longest time that one request spent waiting for Redis, in and out together."""
        return max(self.waits, default=0.0)

    @property
    def longest_recovery_ms(self) -> float:
        """The longest time from the end of a fault to the first admitted call."""
        return max(self.recoveries, default=0.0)


async def weathered(folder: Path, *, seconds: float) -> Weather:
    """Callers go on while the faults change; afterwards counters and ledger are compared with what was done."""
    seen = Weather()
    with redis_server(folder, "--appendonly", "yes", "--appendfsync", "always") as server:
        async with (
            fault_proxy(server.port) as proxy,
            RedisStore.connect(f"redis://127.0.0.1:{proxy.port}/0") as store,
        ):
            admission = RedisAdmission(store, AdmissionConfig(lease_seconds=600))
            stop = asyncio.Event()
            callers = [asyncio.create_task(_caller(admission, f"c{i}", seen, stop)) for i in range(CALLERS)]
            heart = asyncio.create_task(_heart(seen))
            await _storm(server, proxy, store, seen, seconds)
            stop.set()
            heart.cancel()
            await asyncio.gather(*callers)
            async with asyncio.timeout(SETTLED_SECONDS):
                await store.connected()
                while admission._unheard._tasks:
                    await admission.drain()
        async with RedisStore.connect(server.url, operation_timeout_seconds=30) as store:
            account = await counters(store, "tenant:acme")
            charged = await ledger(store)
    seen.off_by = abs(account["dc"] - seen.cost) + account["n"] + account["hc"]
    seen.off_by += abs(sum(one.cost_microusd for one in charged) - seen.cost) + abs(len(charged) - seen.made)
    return seen


async def _caller(admission: RedisAdmission, name: str, seen: Weather, stop: asyncio.Event) -> None:
    chance = random.Random(name)
    turn = 0
    while not stop.is_set():
        turn += 1
        began = seen.clock()
        try:
            held = await admission.reserve(WHO, call(), choice(), f"{name}-{turn}")
        except GatewayError:
            seen.refused += 1
            seen.waits.append((seen.clock() - began) * 1000)
            await asyncio.sleep(0.02)
            continue
        waited = seen.clock() - began
        await asyncio.sleep(chance.random() / 20)
        done = entry(held, completion=chance.randrange(30))
        seen.made, seen.cost = seen.made + 1, seen.cost + done.cost_microusd
        began = seen.clock()
        await held.settle(done)
        seen.waits.append((waited + seen.clock() - began) * 1000)


async def _heart(seen: Weather) -> None:
    """Notice when the event loop does not come round."""
    while True:
        await asyncio.sleep(BEAT_SECONDS)
        now = time.perf_counter()
        seen.stalled += max(0.0, now - seen.beat - BEAT_SECONDS)
        seen.beat = now


async def _storm(server: RedisServer, proxy: FaultProxy, store: RedisStore, seen: Weather, seconds: float) -> None:
    chance = random.Random(11)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin, over = chance.choice(_faults(server, proxy, chance))
        await begin()
        await asyncio.sleep(0.1 + chance.random() / 2)
        await over()
        before, ended = seen.made, seen.clock()
        while seen.made == before and seen.clock() < ended + SETTLED_SECONDS:
            await asyncio.sleep(0.005)
        seen.recoveries.append((seen.clock() - ended) * 1000)
        await asyncio.sleep(0.1)


def apart(work: Callable[[], None]) -> Fault:
    """Something that blocks, in a thread: the callers' event loop must not stand still for it."""

    async def wait() -> None:
        await asyncio.to_thread(work)

    return wait


def _faults(server: RedisServer, proxy: FaultProxy, chance: random.Random) -> list[tuple[Fault, Fault]]:
    async def slow() -> None:
        proxy.delay_seconds = chance.choice([0.01, 0.03, 0.06, 0.5, 5.0])

    async def well() -> None:
        proxy.delay_seconds, proxy.swallow, proxy.refuse = 0.0, False, False
        proxy.reset_all()

    async def half_open() -> None:
        proxy.swallow = True

    async def refusing() -> None:
        proxy.refuse = True
        proxy.reset_all()

    async def cut() -> None:
        proxy.reset_all()

    return [
        (apart(server.pause), apart(server.go_on)),
        (slow, well),
        (half_open, well),
        (refusing, well),
        (cut, well),
        (apart(server.kill), apart(server.start)),
    ]
