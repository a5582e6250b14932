"""Streams that outgrow their estimate while Redis is away follow the fail policy, and are charged all the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from app.admission.local import LocalConfig, LocalShare
from app.admission.redis import HeldReservation, RedisAdmission
from app.storage.redis import RedisStore
from app.types import Limits, Principal
from tests.admission.cases import call, choice, counters, entry, ledger, principal
from tests.support.redis_server import RedisServer, redis_server

WAIT = 20
BUDGETED = principal(tenant=Limits(budget_day_microusd=10**9))
UNLIMITED = principal()


async def _streaming(admission: RedisAdmission, who: Principal) -> HeldReservation:
    return await admission.reserve(who, call(stream=True), choice(), "r1")


async def test_a_stream_grows_by_the_local_allowance(tmp_path: Path) -> None:
    """Within it the stream goes on, at its end it is stopped; both are told, and the truth is charged afterwards."""
    told: list[tuple[str, str]] = []
    with redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        async with RedisStore.connect(server.url, operation_timeout_seconds=5) as store:
            share = LocalShare(LocalConfig(allowance_microusd=100))
            admission = RedisAdmission(store, local=share, on_outage=lambda *decision: told.append(decision))
            held = await _streaming(admission, BUDGETED)
            server.kill()
            assert [await held.extend(40, 40) for _ in range(4)] == [True, True, False, False]
            assert (held.reserved_tokens, held.reserved_microusd) == (20 + 80, 20 + 80)
            await held.settle(entry(held, completion=90))
            await _back(server, store, admission)
            after, (line,) = await counters(store, "tenant:acme"), await ledger(store)
    assert (after["dc"], after["n"], after["hc"], line.cost_microusd) == (100, 0, 0, 100)
    assert told == [("admission", "extended")] * 2 + [("admission", "stopped")] * 2 + [("ledger", "kept")]


@pytest.mark.parametrize(("who", "goes_on"), [(BUDGETED, False), (UNLIMITED, True)], ids=["budget", "none"])
async def test_under_the_closed_policy_a_stream_with_a_budget_is_stopped(
    tmp_path: Path, who: Principal, goes_on: bool
) -> None:
    """Nothing can be promised about a budget, so it ends there; who has none is promised nothing and goes on."""
    with redis_server(tmp_path) as server:
        async with RedisStore.connect(server.url, operation_timeout_seconds=5) as store:
            admission = RedisAdmission(store)
            held = await _streaming(admission, who)
            server.kill()
            assert await held.extend(10, 10) is goes_on
            assert held.reserved_tokens == (30 if goes_on else 20)


async def test_rates_do_not_stop_a_stream(tmp_path: Path) -> None:
    """Without a budget the allowance does not matter: tokens a minute run into debt, as they do in Redis."""
    with redis_server(tmp_path) as server:
        async with RedisStore.connect(server.url, operation_timeout_seconds=5) as store:
            share = LocalShare(LocalConfig(allowance_microusd=0))
            admission = RedisAdmission(store, local=share)
            held = await _streaming(admission, principal(key=Limits(tokens_per_minute=50)))
            server.kill()
            assert await held.extend(1000, 1000)


async def _back(server: RedisServer, store: RedisStore, admission: RedisAdmission) -> None:
    server.start()
    async with asyncio.timeout(WAIT):
        await store.connected()
        await admission.drain()
