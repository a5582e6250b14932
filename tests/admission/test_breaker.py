from __future__ import annotations

import json
from typing import Any

import pytest

from app.admission.redis import RedisAdmission
from app.errors import QuotaExhausted, RateLimited
from app.storage.redis import RedisStore
from app.types import BreakerPolicy, Choice, Limits, Price
from tests.admission.cases import Clock, admitted, call, choice, entry, principal

CAP = Limits(spend_per_minute_microusd=100)


async def events(store: RedisStore) -> list[dict[str, Any]]:
    """The budget events in the tenant's stream."""
    rows = await store.command("XRANGE", "tg:{acme}:ledger", "-", "+")
    return [json.loads(fields[1]) for _, fields in rows if fields[0] == b"v"]


async def spend(admission: RedisAdmission, limits: Limits, request_id: str, tokens: int) -> bool:
    """Whether a call of so many tokens was admitted; it uses them all."""
    who = principal(tenant=limits)
    held = await admitted(admission, who, request_id, prompt=tokens, output=0)
    if held is None:
        return False
    await held.settle(entry(held, prompt=tokens, completion=0))
    return True


async def test_spend_above_the_cap_opens_the_breaker(
    admission: RedisAdmission, store: RedisStore, clock: Clock
) -> None:
    """What would pass the cap of a minute is refused, and so is everything for the cooldown; both are told once."""
    assert await spend(admission, CAP, "a", 90)
    with pytest.raises(RateLimited, match=r"spend per minute \(micro-dollars\) of this tenant: limit 100") as refused:
        await admission.reserve(principal(tenant=CAP), call(prompt=20, output=0), choice(), "b")
    assert dict(refused.value.headers)[b"retry-after"] == b"30"
    assert not await spend(admission, CAP, "c", 1)
    assert [(e["event"], e["limit"], e["policy"]) for e in await events(store)] == [
        ("breaker_opened", "spend_velocity", "block")
    ]


async def test_half_open_lets_one_call_probe_and_closes_when_it_is_slow_enough(
    admission: RedisAdmission, store: RedisStore, clock: Clock
) -> None:
    """After the cooldown one call at a time passes; its settlement below the cap closes the breaker."""
    await spend(admission, CAP, "a", 90)
    assert not await spend(admission, CAP, "b", 20)
    await clock.add(31)
    probe = await admitted(admission, principal(tenant=CAP), "probe", prompt=10, output=0)
    assert probe is not None
    assert not await spend(admission, CAP, "c", 1)
    await probe.settle(entry(probe, prompt=10, completion=0))
    assert await spend(admission, CAP, "d", 1)
    assert [e["event"] for e in await events(store)] == ["breaker_opened", "breaker_closed"]


async def test_half_open_opens_again_when_the_probe_spends_too_much(
    admission: RedisAdmission, store: RedisStore, clock: Clock
) -> None:
    """A probe that costs more than the cap leaves the breaker open for another cooldown."""
    await spend(admission, CAP, "a", 90)
    assert not await spend(admission, CAP, "b", 20)
    await clock.add(31)
    probe = await admitted(admission, principal(tenant=CAP), "probe", prompt=1, output=0)
    assert probe is not None
    await probe.settle(entry(probe, prompt=200, completion=0))
    assert not await spend(admission, CAP, "c", 1)
    await clock.add(31)
    assert await admitted(admission, principal(tenant=CAP), "probe-2", prompt=1, output=0) is not None
    assert [e["event"] for e in await events(store)] == ["breaker_opened", "breaker_reopened"]


async def test_a_lost_probe_lets_the_next_one_try(admission: RedisAdmission, clock: Clock) -> None:
    """A probe that nobody settles blocks nobody for longer than its time."""
    await spend(admission, CAP, "a", 90)
    assert not await spend(admission, CAP, "b", 20)
    await clock.add(31)
    assert await admitted(admission, principal(tenant=CAP), "probe", prompt=1, output=0) is not None
    await clock.add(31)
    assert await admitted(admission, principal(tenant=CAP), "probe-2", prompt=1, output=0) is not None


async def test_a_surge_over_the_usual_rate_opens_it(admission: RedisAdmission, clock: Clock) -> None:
    """Against the trailing hour: five times the usual minute passes, the next call does not."""
    surge = Limits(spend_surge_percent=500)
    for minute in range(30):
        assert await spend(admission, surge, f"m{minute}", 10)
        await clock.add(60)
    assert await spend(admission, surge, "burst", 40)
    assert not await spend(admission, surge, "more", 40)


@pytest.mark.parametrize("limits", [{"budget_day_microusd": 50}, {"spend_per_minute_microusd": 50}])
async def test_alert_only_tells(
    admission: RedisAdmission, store: RedisStore, clock: Clock, limits: dict[str, Any]
) -> None:
    """Under the policy `alert` everything passes, and the trip is told once."""
    alert = Limits(**limits, breaker=BreakerPolicy.ALERT)
    for i in range(5):
        assert await spend(admission, alert, f"r{i}", 20)
    opened = [e for e in await events(store) if e["event"] == "breaker_opened"]
    assert len(opened) == 1
    assert opened[0]["policy"] == "alert"


async def test_degrade_takes_the_cheaper_variant_and_holds_its_price(admission: RedisAdmission, clock: Clock) -> None:
    """When the call no longer fits, the route's cheaper variant is held instead; the hard end of the budget stays."""
    limits = Limits(budget_day_microusd=50, breaker=BreakerPolicy.DEGRADE)
    who = principal(tenant=limits)
    cheap = Choice(choice().route, "cheap", choice(Price(100_000, 100_000)).targets)
    both = choice(cheaper=cheap)
    first = await admission.reserve(who, call(prompt=20, output=20), both, "r1")
    assert first.choice is both
    second = await admission.reserve(who, call(prompt=20, output=20), both, "r2")
    assert second.choice is cheap
    assert second.reserved_microusd == 4
    assert second.entry.variant == "cheap"
    await admission.reserve(who, call(prompt=20, output=20), both, "r3")
    with pytest.raises(QuotaExhausted):
        await admission.reserve(who, call(prompt=20, output=20), both, "r4")
    with pytest.raises(QuotaExhausted):  # a route without a cheaper variant has nowhere to go
        await admission.reserve(who, call(prompt=20, output=20), choice(), "r5")


async def test_milestones_are_told_once_each(admission: RedisAdmission, store: RedisStore, clock: Clock) -> None:
    """50, 80 and 100 per cent of what is spent (not held), once per window, with the figures."""
    limits = Limits(budget_day_microusd=100, budget_total_microusd=1000)
    for i in range(10):
        assert await spend(admission, limits, f"r{i}", 10)
    told = [(e["limit"], e["percent"], e["used"], e["allowed"]) for e in await events(store)]
    assert told == [("budget_day", 50, 50, 100), ("budget_day", 80, 80, 100), ("budget_day", 100, 100, 100)]
    await clock.add(86_400)
    for i in range(5):
        assert await spend(admission, limits, f"s{i}", 10)
    assert [(e["limit"], e["percent"]) for e in (await events(store))[3:]] == [("budget_day", 50)]


async def test_an_exhausted_budget_is_told_once_a_window(
    admission: RedisAdmission, store: RedisStore, clock: Clock
) -> None:
    """However many calls are refused."""
    limits = Limits(budget_day_microusd=10)
    for i in range(5):
        assert not await spend(admission, limits, f"r{i}", 20)
    assert [e["event"] for e in await events(store)] == ["breaker_opened"]
    await clock.add(86_400)
    assert not await spend(admission, limits, "tomorrow", 20)
    assert len(await events(store)) == 2
