"""Breakers and the retry budget, held against a model that is written down as plainly as possible."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from app.backends.health import BreakerConfig, Health, RetryBudget, State

CONFIG = BreakerConfig(
    consecutive_failures=3,
    error_rate=0.5,
    error_rate_calls=8,
    window_seconds=10.0,
    cool_down_seconds=2.0,
    longest_cool_down_seconds=16.0,
)


class Clock:
    """Time that tests move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Now."""
        return self.now


class BreakerAgainstModel(RuleBasedStateMachine):
    """One upstream: whatever happens to it, the breaker stands where the model says."""

    @initialize()
    def begin(self) -> None:
        """A new upstream."""
        self.clock = Clock()
        self.health = Health(self.clock, CONFIG)
        self.trips = 0
        self.due = 0.0
        self.rest = 0.0
        self.trial = False
        self.in_a_row = 0
        self.window: tuple[float, int, int] = (0.0, 0, 0)

    def _counted(self, failed: int) -> None:
        start, calls, failures = self.window
        if self.clock.now - start >= CONFIG.window_seconds:
            start, calls, failures = self.clock.now, 0, 0
        self.window = (start, calls + 1, failures + failed)

    @rule(seconds=st.sampled_from([0.125, 0.5, 1.0, 2.0, 5.0, 11.0, 20.0]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.clock.now += seconds

    @rule()
    def send(self) -> None:
        """A call goes there."""
        if self.trips and self.clock.now >= self.due:
            self.trial = True
            self.due = self.clock.now + self._cool_down()
        self.health.sent("up")

    @rule()
    def succeed(self) -> None:
        """It answers: all is forgotten but the window."""
        known = self.trips or self.in_a_row or self.rest or self.window != (0.0, 0, 0)
        self.health.succeeded("up")
        if known:
            self._counted(0)
        self.trips, self.in_a_row, self.trial, self.rest = 0, 0, False, 0.0

    @rule(after=st.sampled_from([None, None, 1.0, 7.0, 300.0]))
    def fail(self, after: float | None) -> None:
        """It does not."""
        self.health.failed("up", retry_after_seconds=after)
        self._counted(1)
        self.in_a_row += 1
        if after is not None:
            self.rest = max(self.rest, self.clock.now + min(after, CONFIG.longest_cool_down_seconds))
        _, calls, failures = self.window
        too_many = calls >= CONFIG.error_rate_calls and failures >= CONFIG.error_rate * calls
        reason = self.in_a_row >= CONFIG.consecutive_failures or too_many
        if self.trial or (not self.trips and reason):
            self.trips += 1
            self.trial = False
            self.due = self.clock.now + self._cool_down()

    def _cool_down(self) -> float:
        return float(min(CONFIG.cool_down_seconds * 2 ** max(self.trips - 1, 0), CONFIG.longest_cool_down_seconds))

    @invariant()
    def stands_where_the_model_says(self) -> None:
        """Closed, open, half-open; never shut for longer than the longest rest."""
        if not hasattr(self, "clock"):
            return
        open_now = self.rest > self.clock.now or (self.trips > 0 and self.clock.now < self.due)
        expected = State.OPEN if open_now else State.HALF_OPEN if self.trips else State.CLOSED
        assert self.health.state("up") is expected
        assert max(self.rest, self.due) - self.clock.now <= CONFIG.longest_cool_down_seconds
        assert self.health.order(["up"], str) == ["up"], "the last target is never shut out"


TestBreaker = BreakerAgainstModel.TestCase
TestBreaker.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_failures_that_come_together_are_one_reason() -> None:
    """A hundred calls that die with their upstream open its breaker once, for one cool-down, not for the longest."""
    clock = Clock()
    health = Health(clock, CONFIG)
    for _ in range(100):
        health.failed("up")
    clock.now += CONFIG.cool_down_seconds
    assert health.state("up") is State.HALF_OPEN


def test_one_trial_a_cool_down() -> None:
    """While a trial runs, others wait; a trial that never reports costs only that wait."""
    clock = Clock()
    health = Health(clock, CONFIG)
    for _ in range(3):
        health.failed("up")
    clock.now += 2.0
    assert health.allows("up")
    health.sent("up")
    assert not health.allows("up")
    clock.now += 2.0
    assert health.allows("up")


def test_order_drops_the_open_and_keeps_the_rest() -> None:
    """Open upstreams are skipped; when all are open the one that is due soonest is tried."""
    clock = Clock()
    health = Health(clock, CONFIG)
    for _ in range(3):
        health.failed("a")
    assert health.order(["a", "b"], str) == ["b"]
    clock.now += 1.0
    for _ in range(3):
        health.failed("b")
    assert health.order(["b", "a"], str) == ["a"]


class BudgetAgainstModel(RuleBasedStateMachine):
    """However calls and failures come, tries in place stay under the share."""

    @initialize()
    def begin(self) -> None:
        """A new window."""
        self.clock = Clock()
        self.budget = RetryBudget(self.clock, ratio=0.1, free_calls=10, window_seconds=10.0)
        self.started, self.calls, self.retries = 0.0, 0, 0

    @rule(seconds=st.sampled_from([0.0, 0.1, 3.0, 10.0]), calls=st.integers(1, 30))
    def call(self, seconds: float, calls: int) -> None:
        """Some calls begin."""
        self.clock.now += seconds
        if self.clock.now - self.started >= 10.0:
            self.started, self.calls, self.retries = self.clock.now, 0, 0
        for _ in range(calls):
            self.budget.called()
        self.calls += calls

    @rule(failures=st.integers(1, 30))
    def fail(self, failures: int) -> None:
        """Some of them want another try."""
        for _ in range(failures):
            allowed = self.calls <= 10 or self.retries + 1 <= 0.1 * self.calls
            assert self.budget.take() is allowed
            self.retries += allowed


TestRetryBudget = BudgetAgainstModel.TestCase
TestRetryBudget.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_a_broken_upstream_meets_no_storm() -> None:
    """Ten thousand failing calls are sent at most 1.1 times in all."""
    clock = Clock()
    budget = RetryBudget(clock)
    extra = 0
    for _ in range(10_000):
        clock.now += 0.006
        budget.called()
        extra += budget.take()
    assert extra <= 0.1 * 10_000 + 60 / 10 * budget.free_calls
    assert extra == pytest.approx(1_000, rel=0.1)
