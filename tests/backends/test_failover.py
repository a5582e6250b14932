"""Trying again: before the first byte only, within the budget, and never twice for what the caller got wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from app.backends.failover import TRIES, Failover
from app.backends.health import Health, RetryBudget, State
from app.errors import GatewayError, Unavailable, UpstreamFailed, UpstreamRefused, UpstreamTimedOut
from app.interfaces import Upstream
from app.types import Call, Endpoint, Target
from tests.backends.calls import Canned, Noted, call, choice, endpoint, target
from tests.support.provider import events

EVENTS = events("gpt", include_usage=True)
Act = GatewayError | list[bytes]


@dataclass(slots=True)
class Stage:
    """Placement and backend in one: every address acts its list of outcomes, and counts what is open."""

    acts: dict[str, list[Act]]
    placed: list[str] = field(default_factory=list)
    open_now: int = 0
    placed_now: int = 0
    replica: bool = False

    @asynccontextmanager
    async def place(self, target: Target, affinity: str) -> AsyncIterator[Endpoint]:
        """The address named like the target."""
        self.placed.append(target.upstream)
        act = self.acts[target.upstream]
        if act and isinstance(act[0], Unavailable):
            raise act.pop(0)  # type: ignore[misc]  # just seen to be one
        self.placed_now += 1
        try:
            yield endpoint("http://x", upstream=target.upstream, replica="r" if target.is_pool else None)
        finally:
            self.placed_now -= 1

    @asynccontextmanager
    async def open(self, endpoint: Endpoint, call: Call, request_id: str) -> AsyncIterator[Upstream]:
        """Its next outcome."""
        act = self.acts[endpoint.upstream].pop(0)
        if isinstance(act, GatewayError):
            raise act
        self.open_now += 1
        try:
            yield Canned(act)
        finally:
            self.open_now -= 1


def _failed(kind: Callable[[str], UpstreamFailed] = UpstreamFailed, **flags: Any) -> UpstreamFailed:
    error = kind("no")
    for name, value in flags.items():
        setattr(error, name, value)
    return error


async def _reach(stage: Stage, *targets: Target, budget: RetryBudget | None = None) -> tuple[str, bytes]:
    failover = Failover(stage, stage, stage, Health(), budget or RetryBudget())
    asked = call(stream=True)
    async with failover.reach(choice(*targets), asked, Noted(), "req", "me") as (reached, upstream):
        assert (stage.open_now, stage.placed_now) == (1, 1)
        body = b"".join([block async for block in upstream.blocks()])
    assert (stage.open_now, stage.placed_now) == (0, 0)
    return reached.upstream, body


async def test_the_first_that_answers_answers() -> None:
    """A failing target is passed over, and its fallback's answer is whole."""
    stage = Stage({"a": [_failed()], "b": [EVENTS]})
    assert await _reach(stage, target("a"), target("b")) == ("b", b"".join(EVENTS))
    assert stage.placed == ["a", "b"]


@pytest.mark.parametrize("first", [[], [b'data: {"error":{"message":"x"}}\n\n'], [b": only a comment\n\n"]])
async def test_a_200_that_fails_before_its_first_event_falls_back(first: list[bytes]) -> None:
    """Until the first event the caller has nothing, so another target may still answer."""
    stage = Stage({"a": [first], "b": [EVENTS]})
    assert (await _reach(stage, target("a"), target("b")))[0] == "b"


async def test_after_the_first_event_nobody_else_is_tried() -> None:
    """A break in mid-answer is the caller's to see."""

    class Breaking(Stage):
        @asynccontextmanager
        async def open(self, endpoint: Endpoint, call: Call, request_id: str) -> AsyncIterator[Upstream]:
            yield Canned(EVENTS[:2], UpstreamFailed("broke"))

    stage = Breaking({"a": [], "b": [EVENTS]})
    failover = Failover(stage, stage, stage, Health(), RetryBudget())
    with pytest.raises(UpstreamFailed, match="broke"):
        async with failover.reach(choice(target("a"), target("b")), call(stream=True), Noted(), "r", "m") as (_, up):
            _ = [block async for block in up.blocks()]
    assert stage.placed == ["a"]


async def test_a_refusal_is_final() -> None:
    """The caller's 400 is the same everywhere."""
    stage = Stage({"a": [UpstreamRefused(400, b"{}")], "b": [EVENTS]})
    with pytest.raises(UpstreamRefused):
        await _reach(stage, target("a"), target("b"))
    assert stage.placed == ["a"]


async def test_a_pool_that_has_no_server_falls_back() -> None:
    """Unavailable is a reason to try the next target."""
    stage = Stage({"a": [Unavailable("none")], "b": [EVENTS]})
    assert (await _reach(stage, target("a", is_pool=True), target("b")))[0] == "b"


@pytest.mark.parametrize("lost", [{"model_missing": True}, {"connection_lost": True}])
async def test_a_pool_is_tried_again_for_a_lost_adapter_or_server(lost: dict[str, Any]) -> None:
    """Both cost no budget: a restart loses every adapter at once, and a dead server answers nobody."""
    empty = RetryBudget(ratio=0.0, free_calls=0)
    stage = Stage({"a": [_failed(**lost), _failed(**lost), EVENTS]})
    assert (await _reach(stage, target("a", is_pool=True), budget=empty))[0] == "a"
    stage = Stage({"a": [_failed(**lost) for _ in range(9)]})
    with pytest.raises(UpstreamFailed):
        await _reach(stage, target("a", is_pool=True), budget=empty)
    assert len(stage.placed) == TRIES


async def test_a_stale_connection_is_tried_again_within_the_budget() -> None:
    """A provider that closed a kept-alive connection gets the call once more, but no storm."""
    stage = Stage({"a": [_failed(disconnected=True), EVENTS]})
    assert (await _reach(stage, target("a")))[0] == "a"
    stage = Stage({"a": [_failed(disconnected=True), EVENTS]})
    with pytest.raises(UpstreamFailed):
        await _reach(stage, target("a"), budget=RetryBudget(ratio=0.0, free_calls=0))


@pytest.mark.parametrize("error", [_failed(), _failed(UpstreamTimedOut), _failed(retry_after_seconds=3.0)])
async def test_a_provider_is_not_tried_again_in_place_for_other_reasons(error: UpstreamFailed) -> None:
    """A failing, slow or overloaded provider is left alone."""
    stage = Stage({"a": [error, EVENTS]})
    with pytest.raises(UpstreamFailed):
        await _reach(stage, target("a"))
    assert stage.placed == ["a"]


@pytest.mark.parametrize("error", [_failed(UpstreamTimedOut), _failed(retry_after_seconds=3.0)])
async def test_a_slow_or_overloaded_pool_is_not_tried_again(error: UpstreamFailed) -> None:
    """The caller has waited already; an overloaded pool asked for a rest."""
    stage = Stage({"a": [error, EVENTS]})
    with pytest.raises(UpstreamFailed):
        await _reach(stage, target("a", is_pool=True))


async def test_an_open_breaker_is_passed_over() -> None:
    """After three failures in a row the first target is not asked again."""
    stage = Stage({"a": [_failed() for _ in range(3)], "b": [EVENTS] * 4})
    failover = Failover(stage, stage, stage, Health(), RetryBudget())
    for _ in range(4):
        async with failover.reach(choice(target("a"), target("b")), call(stream=True), Noted(), "r", "m"):
            pass
    assert stage.placed == ["a", "b"] * 3 + ["b"]
    assert failover.health.state("a") is State.OPEN


async def test_every_call_that_goes_out_is_told_to_the_record() -> None:
    """The account knows every target that may have cost something."""
    stage, record = Stage({"a": [_failed()], "b": [EVENTS]}), Noted()
    failover = Failover(stage, stage, stage, Health(), RetryBudget())
    targets = choice(target("a", "m1"), target("b", "m2"))
    async with failover.reach(targets, call(stream=True), record, "r", "m"):
        pass
    assert record.targets == ["m1", "m2"]


@pytest.mark.parametrize("act", [_failed(), _failed(retry_after_seconds=60.0), UpstreamRefused(401, b"")])
async def test_a_call_on_the_callers_own_key_teaches_nothing_of_the_upstream(act: GatewayError) -> None:
    """One tenant's spent quota or wrong key sets the provider aside for nobody else, and its success heals nothing."""
    stage = Stage({"a": [act] * 9})
    failover = Failover(stage, stage, stage, Health(), RetryBudget())
    for _ in range(9):
        own = choice(replace(target("a"), credential="sk-own"))
        with pytest.raises(GatewayError):
            await failover.reach(own, call(stream=True), Noted(), "req", "me").__aenter__()
    assert failover.health.state("a") is State.CLOSED
    assert failover.health.states() == {}
