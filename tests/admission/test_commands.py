from __future__ import annotations

import asyncio
from pathlib import Path

from redis.crc import key_slot

from app.admission.leases import Leases
from app.admission.redis import AdmissionConfig, RedisAdmission
from app.storage.redis import RedisStore
from app.types import Limits
from tests.admission.cases import call, choice, entry, ledger, principal, swept, taken_back
from tests.support.processes import free_port
from tests.support.redis_server import redis_server

CALLS = 50
FULL = Limits(
    requests_per_minute=10**6,
    tokens_per_minute=10**9,
    tokens_per_day=10**9,
    concurrent_requests=10**3,
    budget_day_microusd=10**9,
    budget_week_microusd=10**9,
    budget_month_microusd=10**9,
    budget_total_microusd=10**9,
    spend_per_minute_microusd=10**9,
    spend_surge_percent=1000,
)


async def test_a_request_is_one_script_in_and_one_script_out(admission: RedisAdmission, store: RedisStore) -> None:
    """Counted by Redis itself, with every kind of limit on every account."""
    who = principal(key=FULL, team=FULL, tenant=FULL)
    warm = await admission.reserve(who, call(), choice(), "warm")
    await warm.settle(entry(warm))
    await store.command("CONFIG", "RESETSTAT")
    for i in range(CALLS):
        held = await admission.reserve(who, call(), choice(), f"r{i}")
        await held.settle(entry(held))
    stats = await store.command("INFO", "commandstats")
    lines = stats.decode().split()
    assert any(line.startswith(f"cmdstat_evalsha:calls={2 * CALLS},") for line in lines)
    assert not [line for line in lines if line.startswith("cmdstat_eval:")]
    total = await store.command("INFO", "stats")
    asked = int(total.decode().split("total_commands_processed:")[1].split()[0])
    within = sum(
        int(line.split("calls=")[1].split(",")[0])
        for line in lines
        if line.split(":")[0].removeprefix("cmdstat_")
        in ("get", "set", "time", "zadd", "zrem", "zrangebyscore", "xadd")
    )
    assert asked - within == 2 * CALLS + 2  # and CONFIG RESETSTAT's own end, and INFO


async def test_every_script_runs_on_a_redis_cluster(tmp_path: Path) -> None:
    """On a server in cluster mode, which refuses keys of two slots, the whole life of reservations passes."""
    who = principal(key=FULL, team=FULL, tenant=FULL)
    with redis_server(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server:
        async with RedisStore.connect(server.url, operation_timeout_seconds=10) as store:
            await store.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            async with asyncio.timeout(20):
                while b"cluster_state:ok" not in await store.command("CLUSTER", "INFO"):
                    await asyncio.sleep(0.05)
            admission = RedisAdmission(store, AdmissionConfig(lease_seconds=10))
            held = await admission.reserve(who, call(), choice(), "settled")
            await held.settle(entry(held))
            await taken_back(admission, who, "released")
            forgotten = await admission.reserve(who, call(), choice(), "forgotten")
            await store.command("DEL", "tg:{acme}:res:forgotten")
            await forgotten.settle(entry(forgotten))
            assert (await swept(Leases(store, lease_seconds=10), store)).reservations == 1
            assert len(await ledger(store)) == 2
            made = await store.command("KEYS", "*")
            assert {await store.command("CLUSTER", "KEYSLOT", key) for key in made} == {key_slot(b"{acme}")}
