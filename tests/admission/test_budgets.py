from __future__ import annotations

import pytest

from app.admission.redis import RedisAdmission
from app.errors import QuotaExhausted
from app.types import Limits, Price
from tests.admission.cases import Clock, admitted, call, choice, entry, of_scope, principal

DAY_US = 86_400_000_000


@pytest.mark.parametrize("scope", ["key", "team", "tenant"])
@pytest.mark.parametrize("window", ["day", "week", "month", "total"])
async def test_a_spent_budget_refuses_and_is_never_retried(
    admission: RedisAdmission, clock: Clock, scope: str, window: str
) -> None:
    """Spent plus held stays within the budget of every scope and window; the refusal is OpenAI's insufficient_quota."""
    who = of_scope(scope, {f"budget_{window}_microusd": 50})
    first = await admission.reserve(who, call(), choice(), "r1")
    await first.settle(entry(first))
    await admission.reserve(who, call(), choice(), "r2")
    with pytest.raises(QuotaExhausted, match=f"{window} budget .* of this {scope} is spent: 50 allowed, 40") as refused:
        await admission.reserve(who, call(), choice(), "r3")
    assert refused.value.status == 429
    assert refused.value.code == "insufficient_quota"
    assert (b"x-should-retry", b"false") in refused.value.headers


@pytest.mark.parametrize(("window", "days"), [("day", 1), ("week", 7), ("month", 31)])
async def test_a_budget_begins_again_with_its_window(
    admission: RedisAdmission, clock: Clock, window: str, days: int
) -> None:
    """A day's budget is back on the next UTC day, a week's on Monday, a month's on the first."""
    begin = 1_764_547_200_000_000  # 2025-12-01, a Monday
    await clock.set(begin)
    who = of_scope("key", {f"budget_{window}_microusd": 20})
    assert await admitted(admission, who, "r1") is not None
    await clock.set(begin + days * DAY_US - 1)
    assert await admitted(admission, who, "r2") is None
    await clock.set(begin + days * DAY_US)
    assert await admitted(admission, who, "r3") is not None


async def test_a_total_never_begins_again(admission: RedisAdmission, clock: Clock) -> None:
    """What an account has ever spent only grows."""
    who = principal(key=Limits(budget_total_microusd=20))
    assert await admitted(admission, who, "r1") is not None
    await clock.add(3 * 366 * 86_400)
    assert await admitted(admission, who, "r2") is None


async def test_what_was_used_is_charged_even_above_what_was_held(admission: RedisAdmission, clock: Clock) -> None:
    """An answer longer than its estimate is charged in full: the next call meets the difference."""
    who = principal(key=Limits(budget_day_microusd=100))
    held = await admission.reserve(who, call(), choice(), "r1")
    await held.settle(entry(held, prompt=10, completion=75))
    assert await admitted(admission, who, "r2") is None
    assert await admitted(admission, who, "r3", prompt=10, output=5) is not None


async def test_the_dearest_of_several_targets_is_held(admission: RedisAdmission, clock: Clock) -> None:
    """While a fallback may answer, its price is what must fit."""
    who = principal(key=Limits(budget_day_microusd=100))
    dear = choice(Price(1_000_000, 9_000_000))
    two = choice()
    both = type(two)(two.route, two.variant, (*two.targets, *dear.targets))
    held = await admission.reserve(who, call(), both, "r1")
    assert held.reserved_microusd == 10 + 90
    assert await admitted(admission, who, "r2", prompt=0, output=1) is None


async def test_a_settlement_of_yesterday_leaves_todays_budget_alone(admission: RedisAdmission, clock: Clock) -> None:
    """A call is charged to the day on which it was admitted."""
    begin = clock.now - clock.now % DAY_US
    await clock.set(begin + DAY_US - 1_000_000)
    who = principal(key=Limits(budget_day_microusd=100))
    held = await admission.reserve(who, call(output=80), choice(), "r1")
    await clock.set(begin + DAY_US + 1_000_000)
    today = await admission.reserve(who, call(output=80), choice(), "r2")
    await held.settle(entry(held))
    assert await admitted(admission, who, "r3", prompt=10, output=1) is None
    await today.settle(entry(today))
    assert await admitted(admission, who, "r4", prompt=10, output=70) is not None
