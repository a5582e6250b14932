"""Whole answers near the end of a budget: shortened to what is paid for, and never in each other's way."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.admission.estimate import ENOUGH
from app.admission.headers import ratelimit_headers
from app.admission.length import shortened, spare_microusd
from app.admission.local import LocalConfig, LocalShare
from app.admission.pricing import affordable_tokens, cost_microusd, worst_microusd
from app.admission.question import USUAL
from app.admission.redis import AdmissionConfig, RedisAdmission
from app.errors import QuotaExhausted
from app.storage.redis import RedisStore
from app.types import BreakerPolicy, Choice, Limits, Price, PriceTier, RateLimitState, Target, Usage
from tests.admission.cases import ROUTE, Clock, call, choice, counters, entry, principal
from tests.support.redis_server import redis_server

RATES = st.integers(0, 10**8)
PRICES = st.builds(
    Price,
    RATES,
    RATES,
    cached_microusd_per_mtok=st.none() | RATES,
    reasoning_microusd_per_mtok=st.none() | RATES,
    tiers=st.lists(st.builds(PriceTier, st.integers(1, 1000), st.builds(Price, RATES, RATES)), max_size=2).map(tuple),
)
TOKENS = st.integers(0, 10**6)


async def learned(admission: RedisAdmission, tokens: int = 10) -> None:
    """Let answers of the route be so long as a rule."""
    held = await admission.reserve(principal(), call(), choice(), "learn")
    for _ in range(ENOUGH):
        admission.questions.learn(entry(held, completion=tokens))
    await held.settle(entry(held, prompt=0, completion=0))


@given(price=PRICES, prompt=TOKENS, completion=TOKENS, share=st.floats(0, 1), cached=st.floats(0, 1))
def test_no_usage_costs_more_than_the_worst(
    price: Price, prompt: int, completion: int, share: float, cached: float
) -> None:
    """Whatever of the tokens are cached or reasoning, at every price and in every tier."""
    usage = Usage(prompt, completion, int(prompt * cached), reasoning_tokens=int(completion * share))
    assert cost_microusd(price, usage) <= worst_microusd(price, prompt, completion)


@given(price=PRICES, prompt=TOKENS, money=st.integers(0, 10**12))
def test_what_is_affordable_costs_no_more_and_one_token_more_does(price: Price, prompt: int, money: int) -> None:
    """The inverse of the worst price, to the token; a prompt that is dearer than the money affords nothing."""
    tokens = affordable_tokens(price, prompt, money)
    if tokens is None:
        assert worst_microusd(price, prompt, 10**6) == worst_microusd(price, prompt, 0)
        return
    assert tokens == 0 or worst_microusd(price, prompt, tokens) <= money
    assert worst_microusd(price, prompt, tokens + 1) > money


async def test_far_from_its_budget_an_answer_may_be_as_long_as_it_likes(
    admission: RedisAdmission, store: RedisStore, clock: Clock
) -> None:
    """It holds its estimate; what it may grow by is kept from others until it has settled."""
    await learned(admission)
    who = principal(tenant=Limits(budget_day_microusd=10**6))
    held = await admission.reserve(who, call(output=1000), choice(), "r1")
    assert (held.reserved_microusd, held.state.max_output_tokens) == (20, None)
    account = await counters(store, "tenant:acme")
    assert (account["hc"], account["xc"]) == (20, 990)
    await held.settle(entry(held, completion=1000))
    assert (await counters(store, "tenant:acme")).get("xc", 0) == 0


async def test_near_its_budget_an_answer_is_shortened(
    admission: RedisAdmission, store: RedisStore, clock: Clock
) -> None:
    """Its estimate and a sixteenth of what is left, said in a header; a stream and a long known answer are not."""
    await learned(admission)
    who = principal(tenant=Limits(budget_day_microusd=340))
    held = await admission.reserve(who, call(output=1000), choice(), "whole")
    assert held.state.max_output_tokens == 10 + (340 - 20) // 16
    assert (b"x-tunegate-max-tokens", b"30") in ratelimit_headers(held.state)
    stream = await admission.reserve(who, call(output=1000, stream=True), choice(), "stream")
    short = await admission.reserve(who, call(output=10), choice(), "short")
    assert stream.state.max_output_tokens is None
    assert short.state.max_output_tokens is None
    assert (await counters(store, "tenant:acme"))["xc"] == 20


async def test_a_call_without_a_maximum_does_not_lock_a_budget_up(admission: RedisAdmission, clock: Clock) -> None:
    """A small budget with nothing spent serves dozens of them at once, each allowed more than its estimate."""
    await learned(admission)
    who = principal(tenant=Limits(budget_day_microusd=10_000))
    held = [await admission.reserve(who, call(output=None), choice(), f"r{i}") for i in range(50)]
    lengths = [one.state.max_output_tokens for one in held]
    assert lengths == sorted(lengths, key=lambda length: -(length or 0))
    assert (
        lengths[0] == USUAL.default_output_tokens
    )  # the grant is longer, but so long a maximum may be refused upstream
    assert all(length is not None and length > 10 for length in lengths)


async def test_far_from_the_end_a_call_without_a_maximum_is_left_as_it_is(
    admission: RedisAdmission, clock: Clock
) -> None:
    """No maximum is sent that the caller did not set: a model with a short context refuses one that it cannot reach."""
    await learned(admission)
    who = principal(tenant=Limits(budget_day_microusd=100_000))
    held = [await admission.reserve(who, call(output=None), choice(), f"r{i}") for i in range(5)]
    assert [one.state.max_output_tokens for one in held] == [None] * 5


async def test_a_stream_does_not_take_what_a_whole_answer_may_need(admission: RedisAdmission, clock: Clock) -> None:
    """An extension ends before it, and has it when the answer turns out short."""
    await learned(admission)
    who = principal(tenant=Limits(budget_day_microusd=1000))
    whole = await admission.reserve(who, call(output=70), choice(), "whole")
    stream = await admission.reserve(who, call(stream=True), choice(), "stream")
    assert whole.state.max_output_tokens is None
    assert not await stream.extend(901, 901)
    assert await stream.extend(900, 900)
    await whole.settle(entry(whole))
    assert await stream.extend(60, 60)


async def test_under_alert_and_at_no_price_nothing_is_shortened(admission: RedisAdmission, clock: Clock) -> None:
    """A budget that is only told about bounds nothing, and a caller's own provider key costs nothing here."""
    await learned(admission)
    told = principal(tenant=Limits(budget_day_microusd=100, breaker=BreakerPolicy.ALERT))
    held = await admission.reserve(told, call(output=1000), choice(), "told")
    assert held.state.max_output_tokens is None
    target = replace(choice().targets[0], credential="own")
    own = await admission.reserve(
        principal(tenant=Limits(budget_day_microusd=1)), call(output=1000), Choice(ROUTE, "main", (target,)), "own"
    )
    assert own.state.max_output_tokens is None


async def test_a_degraded_call_is_shortened_at_the_cheaper_price(admission: RedisAdmission, clock: Clock) -> None:
    """What is left pays for a longer answer there."""
    await learned(admission)
    limits = Limits(budget_day_microusd=19, breaker=BreakerPolicy.DEGRADE)
    cheap = Choice(ROUTE, "cheap", choice(Price(100_000, 100_000)).targets)
    held = await admission.reserve(principal(tenant=limits), call(output=1000), choice(cheaper=cheap), "r1")
    assert held.choice is cheap
    assert held.state.max_output_tokens == 20  # two micro-dollars for the prompt and ten tokens, one more of 17 left


async def test_the_dearest_target_and_every_choice_count(admission: RedisAdmission) -> None:
    """Any of the targets may answer, and `n` answers share what there is."""
    dear = Choice(ROUTE, "main", (*choice().targets, Target("dear", "m", Price(1_000_000, 4_000_000))))
    held = await admission.reserve(principal(), call(), dear, "r1")
    asked = replace(call(output=100), choices=2)
    assert spare_microusd(asked, dear, held.entry, 200) == 10 + 200 * 4 - 50
    assert (
        shortened(RateLimitState(), asked, dear, held.entry, 50, default_tokens=256).max_output_tokens
        == (50 + 50 - 10) // 4 // 2
    )


async def test_a_lost_whole_answer_gives_back_what_it_might_have_grown_by(
    admission: RedisAdmission, store: RedisStore, clock: Clock
) -> None:
    """It is charged its estimate, not the most that it could have cost."""
    await learned(admission)
    who = principal(tenant=Limits(budget_day_microusd=10**6))
    await admission.reserve(who, call(output=1000), choice(), "r1")
    await clock.add(11)
    await admission.reserve(who, call(output=10), choice(), "r2")
    account = await counters(store, "tenant:acme")
    assert (account["dc"], account.get("xc", 0)) == (20 + 20, 0)


async def test_an_account_heals_when_nothing_runs(admission: RedisAdmission, store: RedisStore, clock: Clock) -> None:
    """Money kept for a call that nobody remembers, as when Redis lost its last writes, is free once all is idle."""
    await learned(admission)
    who = principal(tenant=Limits(budget_day_microusd=1000))
    await admission.reserve(who, call(output=60), choice(), "r1")
    await store.command("DEL", "tg:{acme}:res:r1")
    other = await admission.reserve(who, call(), choice(), "r2")
    await other.settle(entry(other))
    account = await counters(store, "tenant:acme")
    account["n"] -= 1  # the forgotten call's end was counted, and what it held was not
    await store.command("SET", "tg:{acme}:acct:tenant:acme", msgspec.msgpack.encode(account))
    last = await admission.reserve(who, call(output=10), choice(), "r3")
    await last.settle(entry(last))
    account = await counters(store, "tenant:acme")
    assert (account["hc"], account.get("xc", 0)) == (0, 0)


async def test_without_redis_a_whole_answer_is_no_longer_than_its_estimate(tmp_path: Path) -> None:
    """The allowance of an outage is spent by estimates, so a budgeted caller's answers must keep to theirs."""
    with redis_server(tmp_path) as server:
        async with RedisStore.connect(server.url, operation_timeout_seconds=5) as store:
            admission = RedisAdmission(store, local=LocalShare(LocalConfig(allowance_microusd=100)))
            await learned(admission)
            server.kill()
            budgeted = principal(tenant=Limits(budget_day_microusd=10**9))
            held = await admission.reserve(budgeted, call(output=1000), choice(), "r1")
            free = await admission.reserve(principal(key_id="k2"), call(output=1000), choice(), "r2")
    assert held.state.max_output_tokens == 10
    assert free.state.max_output_tokens is None


@pytest.mark.parametrize("budget", [137, 1000, 12_345])
async def test_racing_whole_answers_that_use_all_they_may_never_pass_the_budget(store: RedisStore, budget: int) -> None:
    """Hundreds at once, each as long as it is allowed to be: spent and held never exceed the budget, nor at the end."""
    admission = RedisAdmission(store, AdmissionConfig(lease_seconds=60, max_output_tokens=5000))
    await learned(admission)
    who = principal(tenant=Limits(budget_day_microusd=budget))
    shortest: list[int] = []

    async def one(number: int) -> int:
        most = (None, 40, 700)[number % 3]
        try:
            held = await admission.reserve(who, call(output=most), choice(), f"r{number}")
        except QuotaExhausted:
            return 0
        longest = held.state.max_output_tokens or most or 5000
        shortest.append(longest)
        await asyncio.sleep(0)
        await held.settle(entry(held, completion=longest))
        account = await counters(store, "tenant:acme")
        assert account["dc"] + account.get("xc", 0) <= budget
        return 10 + longest

    before = (await counters(store, "tenant:acme"))["dc"]
    costs = await asyncio.gather(*(one(number) for number in range(300)))
    while last := await one(len(costs)):  # those that were not let in at once, until nobody is
        costs.append(last)
    account = await counters(store, "tenant:acme")
    assert account["dc"] == before + sum(costs)
    assert budget - max(20, 10 + max(shortest)) < account["dc"] <= budget  # what is left pays for no further call
    assert min(shortest) >= 10
    assert (account["hc"], account["n"], account.get("xc", 0)) == (0, 0, 0)
