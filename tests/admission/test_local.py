from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.admission import local
from app.admission.local import RENEWED_SECONDS, LocalConfig, LocalShare
from app.admission.redis import AdmissionConfig, RedisAdmission
from app.errors import RateLimited, Unavailable
from app.storage.redis import RedisStore
from app.types import Account, AccountKind, Limits
from tests.admission.cases import call, choice, counters, entry, ledger, principal
from tests.support.redis_server import redis_server

WAIT = 20


class Now:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def account(**limits: Any) -> list[Account]:
    """One account with these limits."""
    return [Account(AccountKind.KEY, "k1", Limits(**limits))]


def admitted(share: LocalShare, accounts: list[Account], tokens: int = 1, cost: int = 0) -> bool:
    """Whether one more call is admitted."""
    try:
        share.admit("acme", accounts, tokens, cost)
    except (RateLimited, Unavailable):
        return False
    return True


def test_rates_are_open_to_a_share() -> None:
    """One of three gateways admits a third of a minute's requests at once, and then at a third of the pace."""
    clock = Now()
    share = LocalShare(LocalConfig(gateways=3), clock)
    limited = account(requests_per_minute=30)
    assert [admitted(share, limited) for _ in range(11)] == [True] * 10 + [False]
    clock.now = 6.0
    assert [admitted(share, limited) for _ in range(2)] == [True, False]


def test_budgets_are_closed_but_for_an_allowance() -> None:
    """Whatever the budget, so much is spent without Redis and no more; accounts without a budget are not concerned."""
    share = LocalShare(LocalConfig(allowance_microusd=100), Now())
    assert [admitted(share, account(budget_day_microusd=10**9), cost=30) for _ in range(4)] == [True] * 3 + [False]
    assert admitted(share, [Account(AccountKind.TEAM, "t1", Limits())], cost=10**6)


def test_an_allowance_of_zero_refuses_what_costs() -> None:
    """Closed means closed, also for a day's tokens."""
    share = LocalShare(LocalConfig(allowance_microusd=0), Now())
    assert not admitted(share, account(budget_total_microusd=10**9), cost=1)
    assert not admitted(share, account(tokens_per_day=10**9), cost=1)


def test_concurrency_is_shared_and_given_back() -> None:
    """Two gateways take half each; an ended call makes room."""
    share = LocalShare(LocalConfig(gateways=2), Now())
    limited = account(concurrent_requests=4)
    assert [admitted(share, limited) for _ in range(3)] == [True, True, False]
    share.done("acme", limited)
    assert admitted(share, limited)


def test_the_allowance_comes_back_only_after_a_while() -> None:
    """A Redis that comes and goes does not hand out one allowance after another."""
    clock = Now()
    share = LocalShare(LocalConfig(allowance_microusd=10), clock)
    limited = account(budget_day_microusd=10**9)
    assert admitted(share, limited, cost=10)
    share.redis_answers()
    assert not admitted(share, limited, cost=10)
    clock.now = RENEWED_SECONDS
    share.redis_answers()
    assert admitted(share, limited, cost=10)


async def test_what_waits_for_redis_is_bounded() -> None:
    """The ledger is never dropped, so no more is admitted than can be remembered; refusals leave nothing behind."""
    async with RedisStore.connect("redis://127.0.0.1:1") as store:
        admission = RedisAdmission(store, AdmissionConfig(max_pending=3), local=LocalShare())
        for i in range(3):
            held = await admission.reserve(principal(), call(), choice(), f"r{i}")
            await held.settle(entry(held))
        for i in range(50):
            with pytest.raises(Unavailable):
                await admission.reserve(principal(), call(), choice(), f"no{i}")
        assert len(admission._unheard._tasks) == 3
        for task in admission._unheard._tasks:
            task.cancel()


def test_the_accounts_kept_here_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of users during an outage fills no memory; those who are known go on."""
    monkeypatch.setattr(local, "MAX_ACCOUNTS", 3)
    share = LocalShare(LocalConfig(), Now())
    users = [[Account(AccountKind.USER, f"u{i}", Limits())] for i in range(5)]
    assert [admitted(share, user) for user in users] == [True, True, True, False, False]
    assert admitted(share, users[0])


def test_tenants_do_not_share_a_share() -> None:
    """A key of the same name at another tenant has its own."""
    share = LocalShare(LocalConfig(), Now())
    limited = account(requests_per_minute=1)
    share.admit("acme", limited, 1, 0)
    share.admit("bloom", limited, 1, 0)
    with pytest.raises(RateLimited):
        share.admit("acme", limited, 1, 0)


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 7), st.lists(st.floats(0, 30), max_size=80))
def test_all_gateways_together_stay_near_the_limit(limit: int, gateways: int, waits: list[float]) -> None:
    """However calls are spread in time, each gateway admits at most its burst and its pace, rounded up."""
    clock = Now()
    share = LocalShare(LocalConfig(gateways=gateways), clock)
    passed = 0
    for wait in waits:
        clock.now += wait
        passed += admitted(share, account(requests_per_minute=limit))
    part = -(-limit // gateways)
    assert passed <= part + limit / gateways * clock.now / 60 + 1e-6


async def test_calls_admitted_without_redis_are_charged_when_it_is_back(tmp_path: Path) -> None:
    """Through an outage: admitted by the share, ended meanwhile, and found in counters and ledger after."""
    who = principal(tenant=Limits(budget_day_microusd=10**9, requests_per_minute=10**6))
    decisions: list[tuple[str, str]] = []
    with redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        async with RedisStore.connect(server.url, operation_timeout_seconds=5) as store:
            share = LocalShare(LocalConfig(allowance_microusd=100))
            admission = RedisAdmission(store, local=share, on_outage=lambda *told: decisions.append(told))
            first = await admission.reserve(who, call(), choice(), "before")
            server.kill()
            held = [await admission.reserve(who, call(), choice(), f"r{i}") for i in range(5)]
            with pytest.raises(Unavailable):
                await admission.reserve(who, call(), choice(), "too much")
            for one in (first, *held):
                await one.settle(entry(one))
            assert share.running == 0
            server.start()
            async with asyncio.timeout(WAIT):
                await store.connected()
                await admission.drain()
            after = await counters(store, "tenant:acme")
            assert (after["dc"], after["n"], after["hc"]) == (6 * 20, 0, 0)
            assert sorted(line.request_id for line in await ledger(store)) == ["before", *(f"r{i}" for i in range(5))]
    assert decisions[:6] == [("admission", "admitted")] * 5 + [("admission", "refused")]
    assert decisions[6:] == [("ledger", "kept")] * 6
