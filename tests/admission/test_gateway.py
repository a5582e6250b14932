"""Money through a real gateway process: what a caller sees of limits, budgets, breakers and idempotency."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.gateway import Gateway, gateway
from tests.support.provider import Peer, Provider, Received, events, fake_provider, plain

WAIT = 20
ISSUER = "https://id.example/realm"
DEAR = {"input_usd_per_mtok": 1000, "output_usd_per_mtok": 1000}  # a thousand micro-dollars a token
CHEAP = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}


@dataclass
class World:
    """A gateway, the provider behind it, and one tenant for each test."""

    gateway: Gateway
    provider: Provider
    tenant: str
    redis_url: str
    keys_port: int
    key: str = ""

    async def admin(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One admin call that must succeed."""
        return await asyncio.to_thread(self.gateway.call, method, path, body)

    async def limit(self, **limits: Any) -> None:
        """Make the tenant with these limits, and a key."""
        await self.admin("POST", "/tenants", {"id": self.tenant, "limits": limits})
        self.key = str((await self.admin("POST", f"/tenants/{self.tenant}/keys", {"name": "test"}))["secret"])

    async def ask(self, headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
        """One chat call."""
        body = {"model": "support", "max_tokens": 20, "messages": [{"role": "user", "content": "Hi"}], **fields}
        sent = {"authorization": f"Bearer {self.key}", **(headers or {})}
        async with httpx2.AsyncClient(base_url=self.gateway.url, headers=sent, timeout=30) as client:
            return await client.post("/v1/chat/completions", json=body)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Iterator[Any]:
    """Start one gateway for all tests of this file; its provider's port is known before the provider is."""
    from tests.support.processes import free_port

    folder, port, keys_port = tmp_path_factory.mktemp("money"), free_port(), free_port()
    issuer = {"issuer": ISSUER, "audience": "tunegate", "jwks_url": f"http://127.0.0.1:{keys_port}/keys"}
    settings = {
        "redis_url": redis_server,
        "providers": [{"name": "fake", "base_url": f"http://127.0.0.1:{port}"}],
        "prices": {"models": {"fake/dear": DEAR, "fake/cheap": CHEAP}},
        "cache": {"semantic": False},
        "identity": {"issuers": [{**issuer, "scopes_claim": "scope"}]},
    }
    with gateway(folder, settings) as started:
        variants = [
            {"name": "dear", "weight": 1, "target": {"provider": "fake", "model": "dear"}},
            {"name": "cheap", "weight": 0, "target": {"provider": "fake", "model": "cheap"}},
        ]
        started.call("PUT", "/routes/support", {"variants": variants, "degrade_to": "cheap"})
        yield started, port, keys_port


@pytest.fixture
async def world(running: Any, request: pytest.FixtureRequest, redis_server: str) -> AsyncIterator[World]:
    """A tenant of the test's own, and the provider as long as the test runs."""
    started, port, keys_port = running
    name = request.node.name.removeprefix("test_").replace("_", "-").split("[")[0][:60].strip("-")
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(fake_provider(plain, port=port))
        yield World(started, provider, name, redis_server, keys_port)


async def test_an_idempotent_call_is_made_and_paid_once(world: World) -> None:
    """The retry gets the first answer, the provider is asked once, and the ledger has one request."""
    await world.limit()
    first = await world.ask({"idempotency-key": "a"})
    again = await world.ask({"idempotency-key": "a"})
    other = await world.ask({"idempotency-key": "a"}, temperature=1)
    assert (first.status_code, again.status_code, other.status_code) == (200, 200, 400)
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    assert other.json()["error"]["code"] == "idempotency_key_reused"
    assert len(world.provider.received) == 1
    usage = await world.admin("GET", f"/usage?tenant={world.tenant}")
    assert usage["data"][0]["requests"] == 1


async def test_an_open_breaker_degrades_to_the_cheaper_variant(world: World) -> None:
    """When the dear variant no longer fits, the cheaper one answers and a header says so."""
    await world.limit(budget_day_microusd=30_000, breaker="degrade")
    first, second = await world.ask(), await world.ask()
    assert (first.headers["x-tunegate-variant"], second.headers["x-tunegate-variant"]) == ("dear", "cheap")
    assert "x-tunegate-degraded" not in first.headers
    assert second.headers["x-tunegate-degraded"] == "budget"
    assert [received.json["model"] for received in world.provider.received] == ["dear", "cheap"]


async def test_a_stream_ends_cleanly_where_its_budget_ends(world: World) -> None:
    """A stream longer than the budget pays for is cut with finish_reason length, charged, and the upstream is left."""
    await world.limit(budget_day_microusd=200_000)

    async def endless(request: Received, peer: Peer) -> None:
        await peer.head(200, "text/event-stream")
        while True:
            for event in events("dear", ["word "] * 10, include_usage=False)[1:-2]:
                await peer.chunk(event)
            await asyncio.sleep(0.001)

    world.provider.then(endless)
    answer = await world.ask(stream=True, max_tokens=20)
    lines = [line[6:] for line in answer.text.split("\n\n") if line.startswith("data: ")]
    last = json.loads(lines[-2])
    assert lines[-1] == "[DONE]"
    assert last["x-stop"] == "budget"
    assert last["choices"][0]["finish_reason"] == "length"
    async with asyncio.timeout(WAIT):
        await world.provider.left.wait()
    usage = await world.admin("GET", f"/usage?tenant={world.tenant}&group_by=outcome")
    (row,) = usage["data"]
    assert row["outcome"] == "budget_stopped"
    assert 150_000 <= row["cost_microusd"] <= 260_000  # one check's worth of tokens may pass the budget


async def test_users_have_limits_of_their_own(world: World) -> None:
    """Each user two a minute on this route; the rule names nobody, and the listing shows no user's name."""
    await world.limit()
    rule = {"kind": "user", "route": "support", "limits": {"requests_per_minute": 2}}
    await world.admin("PUT", f"/tenants/{world.tenant}/limits/each-user", rule)
    named = {"kind": "user", "user": "vip", "limits": {"requests_per_minute": 1}}
    stored = await world.admin("PUT", f"/tenants/{world.tenant}/limits/vip", named)
    assert "vip" not in str(stored["subject"])
    statuses = [(await world.ask(user=user)).status_code for user in ("ann", "ann", "ann", "bob", "vip", "vip")]
    assert statuses == [200, 200, 429, 200, 200, 429]
    refused = await world.ask(user="ann")
    assert "requests per minute of this user on support: limit 2" in refused.json()["error"]["message"]
    await world.admin("DELETE", f"/tenants/{world.tenant}/limits/each-user")
    assert (await world.ask(user="ann")).status_code == 200


async def test_every_admin_change_is_in_the_audit_log(world: World) -> None:
    """Who, what, before and after; secrets are not in it."""
    await world.limit(requests_per_minute=5)
    await world.admin("PATCH", f"/tenants/{world.tenant}", {"limits": {"requests_per_minute": 6}})
    log = await world.admin("GET", f"/audit?object=tenants/{world.tenant}")
    changed, made = log["data"]
    assert (made["before"], made["after"]["requests_per_minute"]) == (None, 5)
    assert (changed["before"]["requests_per_minute"], changed["after"]["requests_per_minute"]) == (5, 6)
    assert changed["who"] == "admin key"
    whole = json.dumps(await world.admin("GET", "/audit?limit=1000"))
    assert world.key not in whole
    assert "digest" not in whole


async def test_the_openai_headers_count_down(world: World) -> None:
    """Remaining requests and tokens fall by what was used."""
    await world.limit(requests_per_minute=10, tokens_per_minute=1000)
    first, second = await world.ask(), await world.ask()
    assert first.headers["x-ratelimit-remaining-requests"] == "9"
    assert second.headers["x-ratelimit-remaining-requests"] == "8"
    used = int(first.json()["usage"]["total_tokens"])
    fell = int(first.headers["x-ratelimit-remaining-tokens"]) - int(second.headers["x-ratelimit-remaining-tokens"])
    assert 0 < fell <= used + 1


async def test_usage_leaves_as_csv_and_meets_a_bill(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CSV has what the JSON has; a bill that agrees leaves with 0, and one that is off with 1."""
    from typer.testing import CliRunner

    from app.cli.main import app

    await world.limit()
    for _ in range(3):
        await world.ask()
    (row,) = (await world.admin("GET", f"/usage?tenant={world.tenant}&group_by=model"))["data"]
    with world.gateway.admin() as admin:
        lines = (
            await asyncio.to_thread(admin.get, f"/usage.csv?tenant={world.tenant}&group_by=model")
        ).text.splitlines()
    header, values = lines
    assert dict(zip(header.split(","), values.split(","), strict=True)) == {
        key: str(value) for key, value in row.items()
    }
    spent = (await world.admin("GET", "/usage?group_by=model&upstream=fake"))["data"]
    monkeypatch.setenv("TUNEGATE_URL", world.gateway.url)
    monkeypatch.setenv("TUNEGATE_ADMIN_KEY", world.gateway.admin_key)
    for extra, code in ((0, 0), (1_000_000, 1)):
        bill = tmp_path / "bill.csv"
        billed = [f"{one['model']},{(one['cost_microusd'] + extra) / 1_000_000:.6f}" for one in spent]
        bill.write_text("\n".join(["model,cost_usd", *billed]), encoding="utf-8")
        arguments = ["usage", "reconcile", str(bill), "--upstream", "fake", "--tolerance", "0", "--json"]
        result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
        assert result.exit_code == code, result.output


async def test_a_key_of_ones_own_is_used_recorded_and_not_charged(world: World) -> None:
    """Kept sealed for the tenant, or brought with one request: sent to the provider, never charged, never shown."""
    await world.limit(budget_day_microusd=1000)  # less than one call would cost
    assert (await world.ask()).status_code == 429
    path = f"/tenants/{world.tenant}/provider-keys"
    await world.admin("PUT", f"{path}/fake", {"key": "sk-kept-for-tenant"})
    kept = await world.ask()
    brought = await world.ask({"x-provider-key": "fake=sk-brought-along"})
    assert (kept.status_code, brought.status_code) == (200, 200)
    sent = [received.headers["authorization"] for received in world.provider.received]
    assert sent == ["bearer sk-kept-for-tenant", "bearer sk-brought-along"]
    (row,) = (await world.admin("GET", f"/usage?tenant={world.tenant}"))["data"]
    assert row["cost_microusd"] == 0
    assert row["byok_microusd"] == 1000 * (row["prompt_tokens"] + row["completion_tokens"])
    shown = json.dumps(await world.admin("GET", path)) + json.dumps(await world.admin("GET", "/audit?limit=1000"))
    assert "sk-kept" not in shown + world.gateway.log.read_text(encoding="utf-8")
    await world.admin("DELETE", f"{path}/fake")
    assert (await world.ask()).status_code == 429


async def test_a_rotated_key_works_beside_the_new_one_for_a_while(world: World) -> None:
    """Both secrets are one key: the limits count on. Without an overlap the old one is refused at once."""
    await world.limit()
    (listed,) = (await world.admin("GET", f"/tenants/{world.tenant}/keys"))["data"]
    path = f"/tenants/{world.tenant}/keys/{listed['id']}"
    await world.admin("PATCH", path, {"limits": {"requests_per_minute": 3}})
    old = world.key
    rotated = await world.admin("POST", f"{path}/rotate", {"overlap_seconds": 600})
    assert rotated["id"] == listed["id"]
    first = await world.ask()
    world.key = rotated["secret"]
    second = await world.ask()
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in (first, second)] == ["2", "1"]
    world.key = str((await world.admin("POST", f"{path}/rotate", {"overlap_seconds": 0}))["secret"])
    assert (await world.ask()).status_code == 200
    for gone in (old, rotated["secret"]):
        world.key = gone
        assert (await world.ask()).status_code == 401


async def test_a_request_is_two_scripts_in_redis(world: World) -> None:
    """Counted by Redis itself through a whole gateway: one script in, one out, for a plain call and for a stream."""
    from app.storage.redis import RedisStore

    await world.limit(requests_per_minute=1000, tokens_per_minute=10**6, budget_day_microusd=10**9)
    await world.ask()
    async with RedisStore.connect(world.redis_url, operation_timeout_seconds=10) as store:
        await store.command("CONFIG", "RESETSTAT")
        for i in range(10):
            assert (await world.ask(stream=bool(i % 2))).status_code == 200
        stats = (await store.command("INFO", "commandstats")).decode().split()
    calls = {line.split(":")[0]: int(line.split("calls=")[1].split(",")[0]) for line in stats if "calls=" in line}
    sweeps = calls.get("cmdstat_zcard", 0)  # the sweeper's script, which alone asks for that
    assert calls["cmdstat_evalsha"] == 2 * 10 + sweeps
    assert "cmdstat_eval" not in calls


async def test_a_token_of_a_trusted_issuer_calls_and_pays(world: World) -> None:
    """Tenant and scopes come from its claims, its calls count for the tenant, and a wrong claim is refused."""
    import time

    import jwt
    from aiohttp import web
    from cryptography.hazmat.primitives.asymmetric import rsa

    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(private.public_key()))

    async def keys(_: web.Request) -> web.Response:
        return web.json_response({"keys": [{**public, "kid": "k1", "alg": "RS256"}]})

    def token(**claims: Any) -> str:
        whole = {"iss": ISSUER, "aud": "tunegate", "sub": "ann", "exp": time.time() + 600, "tenant": world.tenant}
        return jwt.encode({**whole, "scope": "chat", **claims}, private, "RS256", headers={"kid": "k1"})

    site = web.Application()
    site.router.add_get("/keys", keys)
    runner = web.AppRunner(site)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", world.keys_port).start()
        await world.limit(requests_per_minute=2)
        world.key = token()
        first = await world.ask()
        assert (first.status_code, first.headers["x-ratelimit-remaining-requests"]) == (200, "1")
        for claims, status in (({"scope": "embeddings"}, 403), ({"tenant": "unknown"}, 401), ({"aud": "other"}, 401)):
            world.key = token(**claims)
            assert (await world.ask()).status_code == status
        (row,) = (await world.admin("GET", f"/usage?tenant={world.tenant}&group_by=key"))["data"]
        assert row["key"].startswith("jwt_")
    finally:
        await runner.cleanup()
