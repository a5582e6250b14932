"""Accounts of callers that share one answer, on the real recorder: one pays, the others are told what they saved."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from app.cache.coalesce import Bill
from app.recording.recorder import Account
from app.types import CacheStatus, LedgerEntry, Outcome, Usage
from tests.recording.test_recorder import Held, Meter, opened

USED = Usage(prompt_tokens=7, completion_tokens=5)


def shared(*, every_caller_pays: bool = False, callers: int = 3) -> list[tuple[Account, Held]]:
    """Open accounts with one bill; the first has set off, the others have joined."""
    bill, made = Bill(every_caller_pays=every_caller_pays), []
    for number in range(callers):
        account, held, _ = opened()
        bill.opened()
        account.shares(bill, joined=number > 0)
        made.append((account, held))
    return made


async def answered(account: Account, held: Held, used: Usage = USED) -> LedgerEntry:
    """The entry of a caller that got its whole answer."""
    async with account:
        account.metered(held.choice.targets[0], Meter(used))
        account.settle()
    return held.settled[0]


async def left(account: Account, held: Held, used: Usage) -> LedgerEntry:
    """The entry of a caller that went away while it was relayed so much."""
    with suppress(asyncio.CancelledError):
        async with account:
            account.metered(held.choice.targets[0], Meter(used))
            raise asyncio.CancelledError
    return held.settled[0]


async def test_one_pays_and_the_others_saved_it() -> None:
    """Tokens and money are charged once; the rest is in `saved`, and the ledger says who had joined."""
    entries = [await answered(*one) for one in shared()]
    assert [entry.completion_tokens for entry in entries] == [5, 0, 0]
    assert [entry.cost_microusd > 0 for entry in entries] == [True, False, False]
    assert [entry.saved_microusd for entry in entries] == [0, entries[0].cost_microusd, entries[0].cost_microusd]
    assert [entry.cache for entry in entries] == [CacheStatus.BYPASS, CacheStatus.COALESCED, CacheStatus.COALESCED]
    assert {entry.outcome for entry in entries} == {Outcome.OK}


async def test_the_first_caller_may_leave_without_paying() -> None:
    """It is written down as gone; the next one that gets the answer pays."""
    first, second, third = shared()
    gone = await left(*first, Usage(7, 2))
    assert (gone.outcome, gone.cost_microusd) == (Outcome.CLIENT_GONE, 0)
    assert (await answered(*second)).completion_tokens == 5
    assert (await answered(*third)).completion_tokens == 0


async def test_when_all_leave_what_was_made_is_paid() -> None:
    """The last to leave is charged for the most that any of them had been relayed."""
    first, second, third = shared()
    charged = [
        (await left(*one, Usage(7, made))).completion_tokens for one, made in ((first, 2), (second, 9), (third, 1))
    ]
    assert charged == [0, 0, 9]


@pytest.mark.parametrize("callers", [1, 4])
async def test_by_policy_each_pays(callers: int) -> None:
    """Every caller is charged as if it had called alone."""
    entries = [await answered(*one) for one in shared(every_caller_pays=True, callers=callers)]
    assert {entry.completion_tokens for entry in entries} == {5}
    assert {entry.saved_microusd for entry in entries} == {0}
