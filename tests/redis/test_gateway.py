"""A gateway process whose Redis dies or refuses: whether it stays in rotation, what it counts, what is charged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.storage.redis import RedisStore
from tests.admission.test_gateway_outage import PRICE, ask, counted, decided, prepared
from tests.support.gateway import Gateway, gateway
from tests.support.provider import fake_provider, plain
from tests.support.redis_server import RedisServer, redis_server

WAIT = 30
COST_MICROUSD = 8000


@asynccontextmanager
async def gateway_over(server: RedisServer, folder: Path, **admission: Any) -> AsyncIterator[Gateway]:
    """A gateway over this Redis and a provider that answers at once."""
    async with fake_provider(plain) as provider:
        settings = {
            "redis_url": server.url,
            "providers": [{"name": "fake", "base_url": provider.url}],
            "prices": {"models": {"fake/*": PRICE}},
            "admission": admission,
            "cache": {"semantic": False},
        }
        started = gateway(folder / "gateway", settings)
        running = await asyncio.to_thread(started.__enter__)
        try:
            yield running
        finally:
            await asyncio.to_thread(started.__exit__, None, None, None)


async def readiness(running: Gateway, status: str) -> tuple[int, dict[str, str]]:
    """The code and the problems of `/readyz` as soon as it says this status."""
    async with asyncio.timeout(WAIT), httpx2.AsyncClient() as client:
        while True:
            answer = await client.get(f"{running.url}/readyz")
            if answer.json()["status"] == status:
                return answer.status_code, answer.json()["problems"]
            await asyncio.sleep(0.05)


async def test_a_gateway_with_a_local_share_stays_in_rotation_without_redis(tmp_path: Path) -> None:
    """Kubernetes goes on sending it calls, and it serves them; the probe names what is away until it is back."""
    with redis_server(tmp_path, "--appendonly", "yes") as server:
        async with gateway_over(server, tmp_path, without_redis="local") as running:
            key = await prepared(running)
            assert await readiness(running, "ready") == (200, {})
            server.kill()
            code, problems = await readiness(running, "degraded")
            assert (code, set(problems)) == (200, {"redis"})
            assert "this gateway's share" in problems["redis"]
            assert (await ask(running, key)).status_code == 200
            await asyncio.to_thread(server.start)
            assert await readiness(running, "ready") == (200, {})


async def test_a_gateway_that_admits_nothing_without_redis_leaves_rotation(tmp_path: Path) -> None:
    """Under `refuse` every call would be 503, so the probe is one as well."""
    with redis_server(tmp_path, "--appendonly", "yes") as server:
        async with gateway_over(server, tmp_path, without_redis="refuse") as running:
            assert await readiness(running, "ready") == (200, {})
            server.kill()
            code, problems = await readiness(running, "not ready")
            assert (code, set(problems)) == (503, {"redis"})
            await asyncio.to_thread(server.start)
            assert await readiness(running, "ready") == (200, {})


@pytest.mark.parametrize(("policy", "status"), [("local", 200), ("refuse", 503)])
async def test_a_redis_that_is_full_is_counted_and_forgets_no_charge(tmp_path: Path, policy: str, status: int) -> None:
    """At `maxmemory` the policy decides, refusals are counted by class, and what was served is charged in the end."""
    full = 'gateway_redis_errors_total{error="OutOfMemoryError"}'
    decision = decided("admitted" if policy == "local" else "refused")
    with redis_server(tmp_path, "--appendonly", "yes", "--maxmemory-policy", "noeviction") as server:
        async with (
            gateway_over(server, tmp_path, without_redis=policy) as running,
            RedisStore.connect(server.url, operation_timeout_seconds=5) as store,
        ):
            key = await prepared(running)
            assert (await ask(running, key)).status_code == 200
            assert await counted(running, full) == 0
            await store.command("CONFIG", "SET", "maxmemory", "1")
            assert (await ask(running, key)).status_code == status
            assert await counted(running, full) >= 1
            assert await counted(running, decision) >= 1
            assert (await readiness(running, "ready"))[0] == 200
            await store.command("CONFIG", "SET", "maxmemory", "0")
            requests = 2 if policy == "local" else 1
            usage = await charged(running, requests)
    assert usage == {"requests": requests, "cost_microusd": COST_MICROUSD * requests}


async def charged(running: Gateway, requests: int) -> dict[str, int]:
    """What the ledger says once it is complete and has so many requests."""
    async with asyncio.timeout(WAIT):
        while True:
            usage = await asyncio.to_thread(running.call, "GET", "/usage?tenant=acme")
            if usage["complete"] and usage["data"] and usage["data"][0]["requests"] >= requests:
                row = usage["data"][0]
                return {"requests": row["requests"], "cost_microusd": row["cost_microusd"]}
            await asyncio.sleep(0.05)
