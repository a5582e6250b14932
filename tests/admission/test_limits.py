from __future__ import annotations

import pytest

from app.admission.redis import RedisAdmission
from app.errors import RateLimited
from app.types import Account, AccountKind, Limits
from tests.admission.cases import Clock, admitted, call, choice, entry, of_scope, principal


@pytest.mark.parametrize("scope", ["key", "team", "tenant"])
async def test_a_minutes_requests_are_counted_exactly(admission: RedisAdmission, clock: Clock, scope: str) -> None:
    """Whoever holds the limit, exactly so many calls pass at once and the refusal names who and what."""
    who = of_scope(scope, {"requests_per_minute": 60})
    held = [await admitted(admission, who, f"r{i}") for i in range(60)]
    assert all(held)
    with pytest.raises(RateLimited, match=f"requests per minute of this {scope}: limit 60"):
        await admission.reserve(who, call(), choice(), "r60")


async def test_a_refusal_says_exactly_when_to_come_back(admission: RedisAdmission, clock: Clock) -> None:
    """The 61st of 60 a minute fits one second later, not a millisecond before."""
    who = principal(key=Limits(requests_per_minute=60))
    for i in range(60):
        await admission.reserve(who, call(), choice(), f"r{i}")
    with pytest.raises(RateLimited) as refused:
        await admission.reserve(who, call(), choice(), "late")
    headers = dict(refused.value.headers)
    assert headers[b"retry-after-ms"] == b"1000"
    assert headers[b"retry-after"] == b"1"
    assert headers[b"x-ratelimit-limit-requests"] == b"60"
    assert headers[b"x-ratelimit-remaining-requests"] == b"0"
    assert headers[b"x-ratelimit-reset-requests"] == b"1m0s"
    await clock.add(0.999)
    assert await admitted(admission, who, "early") is None
    await clock.add(0.001)
    assert await admitted(admission, who, "on-time") is not None


async def test_a_burst_bounds_what_comes_at_once(admission: RedisAdmission, clock: Clock) -> None:
    """With a burst of 5, five pass at once and then one a second, at 60 a minute."""
    who = principal(key=Limits(requests_per_minute=60, requests_burst=5))
    assert [await admitted(admission, who, f"a{i}") is not None for i in range(6)] == [True] * 5 + [False]
    await clock.add(1)
    assert [await admitted(admission, who, f"b{i}") is not None for i in range(2)] == [True, False]


async def test_tokens_held_are_replaced_by_tokens_used(admission: RedisAdmission, clock: Clock) -> None:
    """A call that used less than it held gives the rest back to the minute and to the day."""
    who = principal(tenant=Limits(tokens_per_minute=100, tokens_per_day=100))
    first = await admission.reserve(who, call(prompt=10, output=80), choice(), "r1")
    assert first.state.remaining_tokens == 10
    assert await admitted(admission, who, "r2", prompt=10, output=10) is None
    await first.settle(entry(first, prompt=10, completion=20))
    second = await admission.reserve(who, call(prompt=10, output=50), choice(), "r3")
    assert second.state.remaining_tokens == 10


async def test_remaining_tokens_fall_by_what_was_used(admission: RedisAdmission, clock: Clock) -> None:
    """The header counts tokens, not requests."""
    who = principal(key=Limits(tokens_per_minute=1000))
    for i in range(3):
        held = await admission.reserve(who, call(prompt=50, output=50), choice(), f"r{i}")
        await held.settle(entry(held, prompt=50, completion=50))
    last = await admission.reserve(who, call(prompt=0, output=1), choice(), "last")
    assert (last.state.limit_tokens, last.state.remaining_tokens) == (1000, 699)
    assert last.state.reset_tokens_ms == 301 * 60_000 // 1000


async def test_a_day_of_tokens_begins_again_at_midnight(admission: RedisAdmission, clock: Clock) -> None:
    """What is refused at the end of a UTC day passes in the next, and the refusal says how long that is."""
    who = principal(key=Limits(tokens_per_day=30))
    held = await admission.reserve(who, call(), choice(), "r1")
    await held.settle(entry(held))
    with pytest.raises(RateLimited, match="tokens per day of this key: limit 30") as refused:
        await admission.reserve(who, call(), choice(), "r2")
    day_us = 86_400_000_000
    left_us = day_us - clock.now % day_us
    assert int(dict(refused.value.headers)[b"retry-after-ms"]) == left_us // 1000
    await clock.set(clock.now + left_us)
    assert await admitted(admission, who, "r3") is not None


async def test_requests_in_flight_are_counted_and_let_go(admission: RedisAdmission, clock: Clock) -> None:
    """Two at a time means two, and one that ends makes room for one."""
    who = principal(team=Limits(concurrent_requests=2))
    first, second = [await admission.reserve(who, call(), choice(), f"r{i}") for i in range(2)]
    with pytest.raises(RateLimited, match="concurrent requests of this team: limit 2"):
        await admission.reserve(who, call(), choice(), "r3")
    await first.settle(entry(first))
    assert await admitted(admission, who, "r4") is not None
    assert await admitted(admission, who, "r5") is None
    assert second.reserved_tokens == 20


async def test_a_settlement_is_sent_before_it_is_heard(admission: RedisAdmission, clock: Clock) -> None:
    """A caller that goes on while its settlement is under way finds its counters right: it is said to Redis first."""
    who = principal(key=Limits(concurrent_requests=1))
    first = await admission.reserve(who, call(), choice(), "r1")
    settling = first.settle(entry(first))
    assert await admitted(admission, who, "r2") is not None
    await settling


async def test_a_refused_call_takes_nothing(admission: RedisAdmission, clock: Clock) -> None:
    """When the tenant refuses, the key's and the team's counters stay as they were."""
    who = principal(key=Limits(requests_per_minute=10), tenant=Limits(concurrent_requests=1))
    first = await admission.reserve(who, call(), choice(), "r1")
    for i in range(5):
        assert await admitted(admission, who, f"no{i}") is None
    await first.settle(entry(first))
    again = await admission.reserve(who, call(), choice(), "r2")
    assert again.state.remaining_requests == 8


async def test_the_headers_speak_of_the_tightest_account(admission: RedisAdmission, clock: Clock) -> None:
    """Of several limits, the one with the smallest share left is shown."""
    who = principal(
        key=Limits(requests_per_minute=100), team=Limits(requests_per_minute=4), tenant=Limits(requests_per_minute=50)
    )
    held = await admission.reserve(who, call(), choice(), "r1")
    assert (held.state.limit_requests, held.state.remaining_requests) == (4, 3)
    assert held.state.limit_tokens is None


async def test_a_limit_of_one_route_counts_that_route_only(admission: RedisAdmission, clock: Clock) -> None:
    """An account with a route has counters of its own beside the account without."""
    limited = Account(AccountKind.KEY, "k1", Limits(requests_per_minute=1), route="support")
    assert await admitted(admission, principal(more=[limited]), "r1") is not None
    with pytest.raises(RateLimited, match="requests per minute of this key on support: limit 1"):
        await admission.reserve(principal(more=[limited]), call(), choice(), "r2")
    assert await admitted(admission, principal(), "r3") is not None


async def test_a_limit_of_zero_admits_nothing(admission: RedisAdmission, clock: Clock) -> None:
    """Zero is a limit like any other, and no division."""
    for limits in (Limits(requests_per_minute=0), Limits(tokens_per_minute=0), Limits(concurrent_requests=0)):
        assert await admitted(admission, principal(key=limits), "r1") is None


async def test_a_clock_that_goes_back_grants_no_more(admission: RedisAdmission, clock: Clock) -> None:
    """Neither a minute's burst nor a spent day comes back when the server's clock is set back over midnight."""
    await clock.set(clock.now - clock.now % 86_400_000_000 + 1_000_000)
    who = principal(key=Limits(requests_per_minute=2, budget_day_microusd=40))
    assert [await admitted(admission, who, f"a{i}") is not None for i in range(3)] == [True, True, False]
    await clock.add(-2)
    assert await admitted(admission, who, "b") is None
    await clock.add(61)
    assert await admitted(admission, who, "c") is None
