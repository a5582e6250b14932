from __future__ import annotations

from app.admission.leases import Leases
from app.admission.redis import RedisAdmission
from app.storage.redis import RedisStore
from app.types import BreakerPolicy, Limits, Outcome
from tests.admission.cases import Clock, call, choice, counters, entry, ledger, principal, swept


async def test_a_running_call_holds_more_while_the_budget_lasts(
    admission: RedisAdmission, store: RedisStore, clock: Clock
) -> None:
    """What is added is held on every account, refused at the budget's end, and let go at the settlement."""
    who = principal(key=Limits(budget_day_microusd=100), tenant=Limits(budget_day_microusd=60))
    held = await admission.reserve(who, call(), choice(), "r1")
    assert await held.extend(30, 30)
    assert not await held.extend(20, 20)
    assert await held.extend(10, 10)
    assert (held.reserved_tokens, held.reserved_microusd) == (60, 60)
    assert (await counters(store, "tenant:acme"))["hc"] == 60
    await held.settle(entry(held, completion=45))
    after = await counters(store, "tenant:acme")
    assert (after["dc"], after["dt"], after["hc"], after["n"]) == (55, 55, 0, 0)
    assert (await counters(store, "key:k1"))["dc"] == 55


async def test_the_days_tokens_end_a_stream_too(admission: RedisAdmission, clock: Clock) -> None:
    """An extension past tokens per day is refused; tokens per minute run into debt instead."""
    daily = await admission.reserve(principal(key=Limits(tokens_per_day=30)), call(), choice(), "r1")
    assert not await daily.extend(11, 0)
    assert await daily.extend(10, 0)
    minutely = await admission.reserve(principal(key=Limits(tokens_per_minute=30), key_id="k2"), call(), choice(), "r2")
    assert await minutely.extend(50, 0)


async def test_an_alerting_account_lets_a_stream_go_on(admission: RedisAdmission, clock: Clock) -> None:
    """Under the policy `alert` a budget is told about, not enforced."""
    who = principal(key=Limits(budget_day_microusd=30, breaker=BreakerPolicy.ALERT))
    held = await admission.reserve(who, call(), choice(), "r1")
    assert await held.extend(100, 100)


async def test_a_lost_stream_is_charged_what_it_had_been_extended_to(
    admission: RedisAdmission, leases: Leases, store: RedisStore, clock: Clock
) -> None:
    """The lease begins anew with every extension, and its estimate is the longer one."""
    held = await admission.reserve(principal(), call(), choice(), "r1")
    await clock.add(8)
    assert await held.extend(30, 30)
    await clock.add(8)
    assert (await swept(leases, store)).reservations == 1
    await clock.add(2)
    assert (await swept(leases, store)).reservations == 0
    (lost,) = await ledger(store)
    assert (lost.outcome, lost.cost_microusd, lost.completion_tokens) == (Outcome.LOST, 50, 40)
    assert await held.extend(10, 10)  # the stream itself may still run: its settlement corrects the charge
    await held.settle(entry(held, completion=60))
    assert sum(e.cost_microusd for e in await ledger(store)) == 70
    assert (await counters(store, "tenant:acme"))["dc"] == 70
