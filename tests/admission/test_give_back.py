"""A call that is decided anew: what it held is undone as if it had never come, and its id may come again."""

from __future__ import annotations

import asyncio

from app.admission.local import LocalShare
from app.admission.redis import RedisAdmission
from app.storage.redis import RedisStore
from app.types import Limits
from tests.admission.cases import Clock, admitted, call, choice, counters, entry, ledger, principal
from tests.support.processes import free_port

WHO = principal(tenant=Limits(budget_day_microusd=100, concurrent_requests=1, requests_per_minute=1000))


async def test_what_was_given_back_was_never_held(admission: RedisAdmission, store: RedisStore, clock: Clock) -> None:
    """Money, the place and the rate are free again; the same id is admitted anew, and charged once."""
    held = await admission.reserve(WHO, call(), choice(), "r1")
    await held.give_back()
    after = await counters(store, "tenant:acme")
    assert {after[name] for name in ("rl", "tl", "dt", "dc", "wc", "mc", "sc", "n", "hc")} == {0}
    again = await admission.reserve(WHO, call(), choice(), "r1")
    assert await admitted(admission, WHO, "r2") is None, "the one place is taken again"
    await again.settle(entry(again))
    await admission.drain()
    assert [(e.request_id, e.cost_microusd) for e in await ledger(store)] == [("r1", 20)]
    assert (await counters(store, "tenant:acme"))["dc"] == 20


async def test_given_back_in_a_race_with_its_own_return_is_charged_once(
    admission: RedisAdmission, store: RedisStore, clock: Clock
) -> None:
    """The undoing that is heard only after the same id is held again takes nothing from what is charged."""
    held = await admission.reserve(WHO, call(), choice(), "r1")
    giving = asyncio.create_task(held.give_back())
    again = await admission.reserve(WHO, call(), choice(), "r1")
    await giving
    await again.settle(entry(again))
    await admission.drain()
    assert [(e.request_id, e.cost_microusd) for e in await ledger(store)] == [("r1", 20)]
    assert (await counters(store, "tenant:acme"))["dc"] == 20


async def test_what_the_local_share_held_is_given_back_there() -> None:
    """While Redis is away the place in this gateway's own share is free again at once."""
    local = LocalShare()
    async with RedisStore.connect(f"redis://127.0.0.1:{free_port()}/0") as away:
        admission = RedisAdmission(away, local=local)
        who = principal(tenant=Limits(concurrent_requests=1))
        giving = asyncio.create_task((await admission.reserve(who, call(), choice(), "r1")).give_back())
        await asyncio.sleep(0)
        assert local.running == 0
        giving.cancel()
        await asyncio.gather(giving, return_exceptions=True)
        for task in admission._unheard._tasks:
            task.cancel()
        await asyncio.gather(*admission._unheard._tasks, return_exceptions=True)
