"""Two real gateways on one budget: whole answers that use all they may, who pays for shared calls, what is told."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from app.cli.main import app
from tests.support.gateway import Gateway, gateway
from tests.support.processes import free_port
from tests.support.provider import Peer, Provider, Received, answer, fake_provider, whole

WAIT = 30
ADMIN_KEY = "budget-tests-admin-key-0123456789abcdefgh"
TOKEN_MICROUSD = 1000
PRICE = {"input_usd_per_mtok": TOKEN_MICROUSD, "output_usd_per_mtok": TOKEN_MICROUSD}


@dataclass
class World:
    """Two gateways, the provider behind both, and one tenant for each test."""

    gateways: list[Gateway]
    provider: Provider
    tenant: str
    key: str = ""

    async def admin(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One admin call that must succeed."""
        return await asyncio.to_thread(self.gateways[0].call, method, path, body)

    async def limit(self, **limits: Any) -> None:
        """Make the tenant with these limits, and a key that both gateways know."""
        await self.admin("POST", "/tenants", {"id": self.tenant, "limits": limits})
        self.key = str((await self.admin("POST", f"/tenants/{self.tenant}/keys", {"name": "test"}))["secret"])

    async def ask(
        self,
        number: int = 0,
        *,
        headers: dict[str, str] | None = None,
        model: str = "support",
        fields: dict[str, Any] | None = None,
    ) -> httpx2.Response:
        """One chat call without a maximum, at one gateway or the other."""
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], **(fields or {})}
        sent = {"authorization": f"Bearer {self.key}", **(headers or {})}
        url = self.gateways[number % len(self.gateways)].url
        async with httpx2.AsyncClient(base_url=url, headers=sent, timeout=30) as client:
            return await client.post("/v1/chat/completions", json=body)

    async def usage(self) -> dict[str, Any]:
        """What the ledger says, when all of it is there."""
        async with asyncio.timeout(WAIT):
            while True:
                usage = await self.admin("GET", f"/usage?tenant={self.tenant}")
                if usage["complete"]:
                    return dict(usage["data"][0])
                await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Iterator[tuple[list[Gateway], int]]:
    """Start both gateways on one Redis and one database; the provider's port is known before the provider is."""
    folder, port = tmp_path_factory.mktemp("budgets"), free_port()
    settings = {
        "redis_url": redis_server,
        "database_url": f"sqlite:///{folder / 'truth.sqlite3'}",
        "providers": [{"name": "fake", "base_url": f"http://127.0.0.1:{port}"}],
        "prices": {"models": {"fake/*": PRICE}},
        "cache": {"semantic": False},
    }
    with ExitStack() as stack:
        gateways = [
            stack.enter_context(gateway(folder / name, settings, admin_key=ADMIN_KEY)) for name in ("one", "two")
        ]
        variants = [{"name": "main", "weight": 1, "target": {"provider": "fake", "model": "m"}}]
        gateways[0].call("PUT", "/routes/support", {"variants": variants})
        gateways[0].call("PUT", "/routes/kept", {"variants": variants, "cache": {"exact": True}})
        yield gateways, port


@pytest.fixture
async def world(running: tuple[list[Gateway], int], request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """A tenant of the test's own, and the provider as long as the test runs."""
    gateways, port = running
    name = re.sub(r"[^a-z]+", "-", request.node.name.removeprefix("test_"))[-60:].strip("-")
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(fake_provider(exhaustive, port=port))
        yield World(gateways, provider, name)


async def exhaustive(request: Received, peer: Peer) -> None:
    """Answer as long as is allowed; a call without any bound is answered with what nobody could pay."""
    allowed = request.json.get("max_tokens") or request.json.get("max_completion_tokens") or 100_000
    made = answer("m", ["x"])
    made["usage"] = {"prompt_tokens": 5, "completion_tokens": allowed, "total_tokens": 5 + allowed}
    made["choices"][0]["finish_reason"] = "length"
    await whole(json.dumps(made).encode())(request, peer)


async def test_whole_answers_that_use_all_they_may_never_pass_a_budget(world: World) -> None:
    """Sixty at once at two gateways, none with a maximum of its own: the ledger stays within the budget."""
    budget = 2_000_000
    await world.limit(budget_day_microusd=budget)
    answers = await asyncio.gather(*(world.ask(number) for number in range(60)))
    statuses = Counter(one.status_code for one in answers)
    assert set(statuses) <= {200, 429}
    assert statuses[200] > 1
    lengths = sorted(int(one.headers["x-tunegate-max-tokens"]) for one in answers if one.status_code == 200)
    assert lengths == sorted(received.json["max_tokens"] for received in world.provider.received)
    assert lengths[0] >= 256
    assert budget / 4 < (await world.usage())["cost_microusd"] <= budget


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_a_callers_own_maximum_is_lowered_under_its_own_name(world: World, name: str) -> None:
    """One that the budget pays for goes upstream as it came; the header says what another was lowered to."""
    await world.limit(budget_day_microusd=1_000_000)
    for _ in range(32):  # learn that answers are short
        assert (await world.ask(fields={name: 2})).status_code == 200
    paid, lowered = await world.ask(fields={name: 30}), await world.ask(fields={name: 900})
    assert "x-tunegate-max-tokens" not in paid.headers
    asked = [received.json[name] for received in world.provider.received[-2:]]
    assert asked == [30, int(lowered.headers["x-tunegate-max-tokens"])]
    assert asked[1] < 900


async def test_a_shortened_answer_is_nobody_elses(world: World) -> None:
    """It is neither kept nor shared: the next call of the same words is made anew."""
    await world.limit(budget_day_microusd=1_000_000)
    first, again = await world.ask(model="kept"), await world.ask(model="kept")
    assert [one.headers["x-cache"] for one in (first, again)] == ["bypass", "bypass"]
    assert len(world.provider.received) == 2


async def test_calls_of_different_payers_do_not_share_an_upstream_call(world: World) -> None:
    """Two of ours, two on one key of the caller's, one on another, all at once: three calls, each on the right key."""
    await world.limit()
    keys = [None, None, "sk-aaaaaaaa", "sk-aaaaaaaa", "sk-bbbbbbbb"]

    async def together(request: Received, peer: Peer) -> None:
        async with asyncio.timeout(WAIT):
            while len(world.provider.received) < 3:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)  # let the second of each pair board; a late one would ask alone and be seen below
        await whole(json.dumps(answer("m", ["x"])).encode())(request, peer)

    world.provider.default = together
    headers = [{} if key is None else {"x-provider-key": f"fake={key}"} for key in keys]
    answers = await asyncio.gather(
        *(world.ask(headers=one, model="kept", fields={"max_tokens": 50}) for one in headers)
    )
    assert {one.status_code for one in answers} == {200}
    used = Counter(received.headers.get("authorization") for received in world.provider.received)
    assert used == {None: 1, "bearer sk-aaaaaaaa": 1, "bearer sk-bbbbbbbb": 1}
    usage = await world.usage()
    assert usage["cost_microusd"] == 6 * TOKEN_MICROUSD
    assert usage["byok_microusd"] == 2 * 6 * TOKEN_MICROUSD


async def test_what_becomes_of_a_budget_is_in_the_audit_log_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half, four fifths, all of it and the open breaker, of calls at two gateways; read by the API and by the tool."""
    await world.limit(budget_day_microusd=100_000, breaker="alert")
    for number in range(10):
        assert (await world.ask(number, fields={"max_tokens": 15})).status_code == 200
    about = f"budgets/{world.tenant}/tenant/{world.tenant}/budget_day"
    async with asyncio.timeout(WAIT):
        while True:
            log = (await world.admin("GET", f"/audit?object={about}"))["data"]
            if len(log) >= 4:
                break
            await asyncio.sleep(0.05)
    events = sorted((one["after"]["event"], one["after"]["percent"]) for one in log if one["after"]["percent"])
    assert events == [("budget_reached", percent) for percent in (50, 80, 100)]
    assert [one["after"]["event"] for one in log if not one["after"]["percent"]] == ["breaker_opened"]
    assert {one["who"] for one in log} == {"gateway"}
    monkeypatch.setenv("TUNEGATE_URL", world.gateways[1].url)
    monkeypatch.setenv("TUNEGATE_ADMIN_KEY", ADMIN_KEY)
    shown = await asyncio.to_thread(CliRunner().invoke, app, ["audit", about, "--json"])
    assert shown.exit_code == 0, shown.output
    assert "budget_reached" in shown.output
