"""A gateway whose Redis dies: what callers see, what is counted, and what is charged when it is back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import pytest

from tests.support.gateway import Gateway, gateway
from tests.support.provider import Peer, Received, events, fake_provider, plain
from tests.support.redis_server import RedisServer, redis_server

WAIT = 30
PRICE = {"input_usd_per_mtok": 1000, "output_usd_per_mtok": 1000}  # a call of eight tokens costs 8000 micro-dollars


async def ask(running: Gateway, key: str) -> httpx2.Response:
    """One chat call."""
    body = {"model": "support", "max_tokens": 3, "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(base_url=running.url, headers=headers, timeout=30) as client:
        return await client.post("/v1/chat/completions", json=body)


async def counted(running: Gateway, metric: str) -> float:
    """What the gateway's metrics say."""
    async with httpx2.AsyncClient() as client:
        lines = (await client.get(f"{running.metrics_url}/metrics")).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(metric))


def decided(decision: str) -> str:
    """The series of what admission decided without Redis."""
    return f'gateway_fail_policy_total{{away="redis",decision="{decision}",part="admission"}}'


async def test_a_gateway_without_redis_goes_on_within_its_allowance(tmp_path: Path) -> None:
    """Calls pass by the local share until the allowance is used, then 503; back again, all of them are charged."""
    with redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        async with fake_provider(plain) as provider:
            settings = {
                "redis_url": server.url,
                "providers": [{"name": "fake", "base_url": provider.url}],
                "prices": {"models": {"fake/*": PRICE}},
                "admission": {"allowance_microusd": 30_000},
                "cache": {"semantic": False},
            }
            started = gateway(tmp_path / "gateway", settings)
            running = await asyncio.to_thread(started.__enter__)
            try:
                target = {"provider": "fake", "model": "m"}
                route = {"variants": [{"name": "main", "weight": 1, "target": target}]}
                await asyncio.to_thread(running.call, "PUT", "/routes/support", route)
                limits = {"budget_day_microusd": 10_000_000}
                await asyncio.to_thread(running.call, "POST", "/tenants", {"id": "acme", "limits": limits})
                key = await asyncio.to_thread(running.key, "acme")
                assert (await ask(running, key)).status_code == 200
                server.kill()
                statuses = [(await ask(running, key)).status_code for _ in range(8)]
                passed = statuses.count(200)
                assert 1 <= passed <= 6
                assert statuses == [200] * passed + [503] * (8 - passed)
                assert await counted(running, decided("admitted")) == passed
                assert await counted(running, decided("refused")) == 8 - passed
                await asyncio.to_thread(server.start)
                async with asyncio.timeout(WAIT):
                    while (await ask(running, key)).status_code != 200:
                        await asyncio.sleep(0.05)
                    while True:
                        usage = await asyncio.to_thread(running.call, "GET", "/usage?tenant=acme")
                        if usage["complete"] and usage["data"][0]["requests"] == passed + 2:
                            break
                        await asyncio.sleep(0.05)
                assert usage["data"][0]["cost_microusd"] == 8000 * (passed + 2)
            finally:
                await asyncio.to_thread(started.__exit__, None, None, None)


@pytest.mark.parametrize("policy", ["local", "refuse"])
async def test_a_running_stream_ends_cleanly_when_redis_dies(tmp_path: Path, policy: str) -> None:
    """It goes on as far as the policy allows, ends with its own last words, and is charged when Redis is back."""
    with redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        async with fake_provider(endless) as provider:
            settings = {
                "redis_url": server.url,
                "providers": [{"name": "fake", "base_url": provider.url}],
                "prices": {"models": {"fake/*": PRICE}},
                "admission": {"allowance_microusd": 500_000, "without_redis": policy},
                "cache": {"semantic": False},
            }
            started = gateway(tmp_path / "gateway", settings)
            running = await asyncio.to_thread(started.__enter__)
            try:
                key = await prepared(running)
                text = await streamed_through_a_kill(running, key, server)
                assert await counted(running, decided("stopped")) >= 1
                assert (await counted(running, decided("extended")) > 0) is (policy == "local")
                await asyncio.to_thread(server.start)
                async with asyncio.timeout(WAIT):
                    while True:
                        usage = await asyncio.to_thread(running.call, "GET", "/usage?tenant=acme&group_by=outcome")
                        if usage["complete"] and usage["data"]:
                            break
                        await asyncio.sleep(0.05)
            finally:
                await asyncio.to_thread(started.__exit__, None, None, None)
    assert text.endswith("data: [DONE]\n\n")
    assert '"x-stop":"budget"' in text
    (row,) = usage["data"]
    assert row["outcome"] == "budget_stopped"
    assert row["completion_tokens"] >= text.count("word")


async def endless(request: Received, peer: Peer) -> None:
    """Stream words until the other side leaves."""
    await peer.head(200, "text/event-stream")
    while True:
        for event in events("m", ["word "] * 10, include_usage=False)[1:-2]:
            await peer.chunk(event)
        await asyncio.sleep(0.001)


async def prepared(running: Gateway) -> str:
    """A key of a tenant with a large budget, and a route."""
    target = {"provider": "fake", "model": "m"}
    route = {"variants": [{"name": "main", "weight": 1, "target": target}]}
    await asyncio.to_thread(running.call, "PUT", "/routes/support", route)
    await asyncio.to_thread(running.call, "POST", "/tenants", {"id": "acme", "limits": {"budget_day_microusd": 10**9}})
    return await asyncio.to_thread(running.key, "acme")


async def streamed_through_a_kill(running: Gateway, key: str, server: RedisServer) -> str:
    """All that a stream says whose Redis is killed after its first words."""
    body = {"model": "support", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"authorization": f"Bearer {key}"}
    text = ""
    async with (
        asyncio.timeout(WAIT),
        httpx2.AsyncClient(base_url=running.url, headers=headers, timeout=30) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        async for part in answer.aiter_text():
            if not text:
                await asyncio.to_thread(server.kill)
            text += part
    return text
