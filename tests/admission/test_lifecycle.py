from __future__ import annotations

import asyncio

import pytest

from app.admission.leases import Leases
from app.admission.redis import Outstanding, RedisAdmission
from app.errors import Unavailable
from app.storage.redis import RedisStore
from app.types import Limits, Outcome
from tests.admission.cases import Clock, admitted, call, choice, counters, entry, ledger, principal, swept, taken_back

WHO = principal(tenant=Limits(budget_day_microusd=100, concurrent_requests=3, requests_per_minute=1000))


async def spent(store: RedisStore) -> int:
    """The micro-dollars of the tenant's day, spent or held."""
    return int((await counters(store, "tenant:acme"))["dc"])


async def test_settling_twice_charges_once(admission: RedisAdmission, store: RedisStore, clock: Clock) -> None:
    """A settlement is idempotent on the request id, racing or not."""
    held = await admission.reserve(WHO, call(output=40), choice(), "r1")
    await asyncio.gather(*(held.settle(entry(held)) for _ in range(20)))
    await held.settle(entry(held, completion=99))
    assert [(e.request_id, e.cost_microusd) for e in await ledger(store)] == [("r1", 20)]
    assert await spent(store) == 20


async def test_reserving_twice_takes_once(admission: RedisAdmission, store: RedisStore, clock: Clock) -> None:
    """The same request id holds one reservation and gets the same answer."""
    first = await admission.reserve(WHO, call(), choice(), "r1")
    again = await admission.reserve(WHO, call(), choice(), "r1")
    assert again.state == first.state
    assert await spent(store) == 20


async def test_an_expired_lease_is_charged_its_estimate_and_says_lost(
    admission: RedisAdmission, leases: Leases, store: RedisStore, clock: Clock
) -> None:
    """A request nobody settles is neither forgotten nor kept in flight."""
    await admission.reserve(WHO, call(output=40), choice(), "r1")
    assert await swept(leases, store) == Outstanding(1, 50)
    await clock.add(10)
    assert await swept(leases, store) == Outstanding(0, 0)
    (lost,) = await ledger(store)
    assert (lost.outcome, lost.cost_microusd, lost.prompt_tokens, lost.completion_tokens) == (Outcome.LOST, 50, 10, 40)
    assert await spent(store) == 50
    held = [await admitted(admission, WHO, f"n{i}", prompt=1, output=0) for i in range(3)]
    assert all(held)


async def test_the_next_request_charges_expired_leases_too(
    admission: RedisAdmission, leases: Leases, store: RedisStore, clock: Clock
) -> None:
    """No sweeper is needed for a tenant that keeps sending."""
    await admission.reserve(WHO, call(output=40), choice(), "r1")
    await clock.add(10)
    await admission.reserve(WHO, call(), choice(), "r2")
    assert [e.outcome for e in await ledger(store)] == [Outcome.LOST]


async def test_a_late_settlement_corrects_what_was_charged_as_lost(
    admission: RedisAdmission, leases: Leases, store: RedisStore, clock: Clock
) -> None:
    """The adjustment's figures are differences: both entries together are the truth, and so is the budget."""
    held = await admission.reserve(WHO, call(output=40), choice(), "r1")
    await clock.add(10)
    await swept(leases, store)
    await held.settle(entry(held, prompt=12, completion=18))
    await held.settle(entry(held, prompt=12, completion=18))
    lost, adjustment = await ledger(store)
    assert adjustment.adjustment
    assert not lost.adjustment
    assert lost.cost_microusd + adjustment.cost_microusd == 30
    assert lost.prompt_tokens + adjustment.prompt_tokens == 12
    assert lost.completion_tokens + adjustment.completion_tokens == 18
    assert await spent(store) == 30


async def test_usage_is_charged_when_redis_has_forgotten_the_reservation(
    admission: RedisAdmission, leases: Leases, store: RedisStore, clock: Clock
) -> None:
    """A Redis that lost its memory between the two scripts still gets the cost, once."""
    held = await admission.reserve(WHO, call(), choice(), "r1")
    await store.command("FLUSHALL")
    await clock.add(0)
    await held.settle(entry(held))
    await held.settle(entry(held))
    assert [e.cost_microusd for e in await ledger(store)] == [20]
    assert await spent(store) == 20


async def test_a_caller_that_leaves_while_it_is_admitted_holds_nothing(
    admission: RedisAdmission, leases: Leases, store: RedisStore, clock: Clock
) -> None:
    """A cancelled reservation is taken back whether or not its script had run, and leaves no entry."""
    tasks = [asyncio.create_task(admission.reserve(WHO, call(), choice(), f"r{i}")) for i in range(50)]
    for i, task in enumerate(tasks):
        if i % 10 == 0:
            await asyncio.sleep(0)
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    await admission.drain()
    assert all(isinstance(result, BaseException) for result in done)
    assert await swept(leases, store) == Outstanding(0, 0)
    assert await spent(store) == 0
    assert await ledger(store) == []


async def test_a_reservation_that_comes_after_its_release_takes_nothing(
    admission: RedisAdmission, leases: Leases, store: RedisStore, clock: Clock
) -> None:
    """A script that a stopped Redis runs late finds the mark of the release."""
    await taken_back(admission, WHO, "r1")
    with pytest.raises(Unavailable, match="given up before it could be admitted"):
        await admission.reserve(WHO, call(), choice(), "r1")
    assert await counters(store, "tenant:acme") == {}


async def test_a_release_after_the_lease_takes_the_loss_back(
    admission: RedisAdmission, leases: Leases, store: RedisStore, clock: Clock
) -> None:
    """If the lease was faster than the release, an adjustment brings the charge to nothing."""
    await admission.reserve(WHO, call(), choice(), "r1")
    await clock.add(11)
    await swept(leases, store)
    await taken_back(admission, WHO, "r1")
    assert sum(e.cost_microusd for e in await ledger(store)) == 0
    assert await spent(store) == 0


async def test_a_cancelled_settlement_is_still_written(
    admission: RedisAdmission, leases: Leases, store: RedisStore, clock: Clock
) -> None:
    """Cancelling the request while it settles changes nothing about the charge."""
    held = await admission.reserve(WHO, call(), choice(), "r1")
    task = asyncio.ensure_future(held.settle(entry(held)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await admission.drain()
    assert [e.cost_microusd for e in await ledger(store)] == [20]
    assert await swept(leases, store) == Outstanding(0, 0)


async def test_a_redis_that_was_started_anew_settles_at_once(
    admission: RedisAdmission, store: RedisStore, clock: Clock
) -> None:
    """It knows no script any more; whoever has awaited the settlement finds the charge there all the same."""
    held = await admission.reserve(WHO, call(), choice(), "r1")
    await store.command("SCRIPT", "FLUSH")
    await held.settle(entry(held))
    assert [e.cost_microusd for e in await ledger(store)] == [20]
    assert admission.outstanding == Outstanding(0, 0)
