from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.admission.pricing import cost_microusd
from app.errors import Internal, UpstreamFailed, UpstreamRefused, UpstreamTimedOut
from app.recording.recorder import CLIENT_CLOSED, Account, Recorder
from app.types import (
    CachedAnswer,
    CacheStatus,
    Choice,
    LedgerEntry,
    Operation,
    Outcome,
    RateLimitState,
    Request,
    Target,
    Usage,
)
from tests.admission.cases import PRICE, call, choice, principal

USED = Usage(prompt_tokens=7, completion_tokens=5)


@dataclass
class Held:
    """A reservation that remembers what it was settled with."""

    choice: Choice
    settled: list[LedgerEntry] = field(default_factory=list)
    state: RateLimitState = field(default_factory=RateLimitState)
    reserved_microusd: int = 40
    reserved_tokens: int = 40
    room: int = 0

    async def extend(self, tokens: int, cost_microusd: int) -> bool:
        """Hold more while there is room."""
        if tokens > self.room:
            return False
        self.room -= tokens
        self.reserved_tokens += tokens
        self.reserved_microusd += cost_microusd
        return True

    async def settle(self, entry: LedgerEntry) -> None:
        """Remember the entry."""
        self.settled.append(entry)

    async def give_back(self) -> None:
        """An account is opened only for what is kept."""
        raise AssertionError("a recorded reservation was given back")


@dataclass
class Meter:
    """A meter that counted this."""

    used: Usage

    def usage(self) -> Usage:
        """What was counted."""
        return self.used


def opened(*, stream: bool = False, user: str | None = None) -> tuple[Account, Held, list[LedgerEntry]]:
    """An account, what it settles, and what the metrics were told."""

    async def read() -> bytes:
        return b""

    finished: list[LedgerEntry] = []
    recorder = Recorder(
        cost=cost_microusd,
        finished=lambda entry, _seconds, _first: finished.append(entry),
        hash_user=lambda tenant, name: f"hash-of-{tenant}-{name}",
    )
    held = Held(choice())
    request = Request("r1", Operation.CHAT, {}, read, 1000.0)
    account = recorder.open(request, principal(), call(stream=stream, user=user), held.choice, held)
    return account, held, finished


TARGET: Target = choice().targets[0]


async def test_a_complete_answer_is_charged_what_the_upstream_counted() -> None:
    """Outcome ok, the true usage, and its price."""
    account, held, finished = opened(user="ann")
    async with account:
        account.sent(TARGET)
        account.metered(TARGET, Meter(USED))
        account.first_byte()
        account.settle()
    (entry,) = held.settled
    assert (entry.outcome, entry.status, entry.cost_microusd) == (Outcome.OK, 200, 12)
    assert (entry.prompt_tokens, entry.completion_tokens, entry.estimated) == (7, 5, False)
    assert entry.user_hash == "hash-of-acme-ann"
    assert entry.first_byte_ms is not None
    assert finished == [entry]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(CacheStatus.EXACT, Outcome.CACHE_EXACT), (CacheStatus.SEMANTIC, Outcome.CACHE_SEMANTIC)],
)
async def test_a_cached_answer_costs_nothing_and_says_what_it_saved(status: CacheStatus, outcome: Outcome) -> None:
    """The saved amount is what the stored answer once used, at today's price."""
    account, held, _ = opened()
    async with account:
        account.hit(CachedAnswer(b"{}", status, 0.0), USED)
        account.settle()
    (entry,) = held.settled
    assert (entry.outcome, entry.cost_microusd, entry.saved_microusd) == (outcome, 0, 12)
    assert (entry.prompt_tokens, entry.completion_tokens, entry.cache) == (0, 0, status)


@pytest.mark.parametrize(
    ("error", "outcome", "status"),
    [
        (UpstreamRefused(400, b"{}"), Outcome.UPSTREAM_REFUSED, 400),
        (UpstreamFailed("down"), Outcome.UPSTREAM_FAILED, 502),
        (UpstreamTimedOut("late"), Outcome.UPSTREAM_FAILED, 504),
        (Internal("oops"), Outcome.FAILED, 500),
        (RuntimeError("a defect"), Outcome.FAILED, 500),
    ],
)
async def test_an_error_before_the_answer_costs_nothing(error: Exception, outcome: Outcome, status: int) -> None:
    """Refused, failed, timed out or our own defect: settled with zero, under its own name, and raised on."""
    account, held, _ = opened()
    with pytest.raises(type(error)):
        async with account:
            account.sent(TARGET)
            raise error
    (entry,) = held.settled
    assert (entry.outcome, entry.status, entry.cost_microusd) == (outcome, status, 0)


@pytest.mark.parametrize("gone", [asyncio.CancelledError, GeneratorExit, ConnectionResetError])
@pytest.mark.parametrize(
    ("stream", "prepare", "cost"),
    [
        (False, lambda _: None, 0),
        (True, lambda account: account.sent(TARGET), 10),
        (False, lambda account: account.sent(TARGET), 40),
        (True, lambda account: account.metered(TARGET, Meter(USED)), 12),
    ],
    ids=["before the call", "stream before its first byte", "whole answer under way", "in the middle of a stream"],
)
async def test_a_client_that_leaves_is_charged_for_what_was_made(
    gone: type[BaseException], stream: bool, prepare: Callable[[Account], None], cost: int
) -> None:
    """Nothing before the call; the prompt for a stream; the whole estimate for an answer nobody saw; else what went."""
    account, held, _ = opened(stream=stream)
    with pytest.raises(gone):
        async with account:
            prepare(account)
            raise gone
    (entry,) = held.settled
    assert (entry.outcome, entry.status, entry.cost_microusd) == (Outcome.CLIENT_GONE, CLIENT_CLOSED, cost)


async def test_an_upstream_that_breaks_off_is_charged_what_it_gave() -> None:
    """The outcome says so whether the reply settles it or the block is left."""
    for settled_by_reply in (True, False):
        account, held, _ = opened(stream=True)
        async with account:
            account.metered(TARGET, Meter(USED))
            account.broke(UpstreamFailed("broke off"))
            if settled_by_reply:
                account.settle()
        (entry,) = held.settled
        assert (entry.outcome, entry.status, entry.cost_microusd) == (Outcome.UPSTREAM_BROKE, 502, 12)


async def test_a_growing_answer_holds_more_and_stops_when_nothing_is_left() -> None:
    """It asks for more before it runs out, uses up what it holds, and then the outcome says why it ended."""
    account, held, _ = opened(stream=True)
    held.room = 100
    async with account:
        for tokens, goes_on in ((10, True), (100, True), (103, True), (104, False)):
            account.metered(TARGET, Meter(Usage(0, tokens)))
            assert await account.affords() is goes_on
        account.settle()
    (entry,) = held.settled
    assert (held.reserved_tokens, held.room) == (104, 36)
    assert (entry.outcome, entry.status, entry.cost_microusd) == (Outcome.BUDGET_STOPPED, 200, 104)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["sent", "metered", "first_byte", "broke", "hit", "settle"]), max_size=12), st.data())
def test_every_ending_settles_exactly_once(steps: list[str], data: st.DataObject) -> None:
    """Whatever happened and however the block is left, there is one entry, and a charge only for what a meter saw."""
    leave = data.draw(st.sampled_from([None, asyncio.CancelledError(), UpstreamFailed("x"), RuntimeError("x")]))

    async def run() -> list[LedgerEntry]:
        account, held, finished = opened(stream=data.draw(st.booleans()))
        actions: dict[str, Callable[[], None]] = {
            "sent": lambda: account.sent(TARGET),
            "metered": lambda: account.metered(TARGET, Meter(USED)),
            "first_byte": account.first_byte,
            "broke": lambda: account.broke(UpstreamFailed("x")),
            "hit": lambda: account.hit(CachedAnswer(b"", CacheStatus.EXACT, 0.0), USED),
        }
        try:
            async with account:
                for step in steps:
                    if step == "settle":
                        account.settle()
                    else:
                        actions[step]()
                if leave is not None:
                    raise leave
        except (UpstreamFailed, RuntimeError, asyncio.CancelledError):
            pass
        assert finished == held.settled
        return held.settled

    (entry,) = asyncio.run(run())
    assert entry.cost_microusd in (0, 10, 12, 40)
    assert entry.cost_microusd == cost_microusd(PRICE, Usage(entry.prompt_tokens, entry.completion_tokens))
    if not {"sent", "metered"} & set(steps):
        assert entry.cost_microusd == 0
