"""Which upstreams are worth trying: a circuit breaker for each, a budget for tries in place. Pure but for the clock.

closed --failures--> open --cool-down--> half-open --success--> closed; a failed trial opens it again for twice as long.
A half-open upstream gets one trial per cool-down; a trial that never reports (its caller left) costs only that wait.
A breaker never refuses by itself: when every target is open, the one that is due soonest is tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

Clock = Callable[[], float]
T = TypeVar("T")


class State(StrEnum):
    """What a breaker says of its upstream."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerConfig:
    """When an upstream is set aside, and for how long."""

    consecutive_failures: int = 3
    error_rate: float = 0.5
    error_rate_calls: int = 20
    window_seconds: float = 10.0
    cool_down_seconds: float = 2.0
    longest_cool_down_seconds: float = 60.0


@dataclass(slots=True)
class _Breaker:
    failures: int = 0
    window_start: float = 0.0
    window_calls: int = 0
    window_failures: int = 0
    opened: int = 0
    on_trial: bool = False
    due_at: float = 0.0
    rest_until: float = 0.0


@dataclass(slots=True)
class Health:
    """The breakers of all upstreams, by the name of a provider or the address of a replica."""

    clock: Clock = time.monotonic
    config: BreakerConfig = field(default_factory=BreakerConfig)
    _breakers: dict[str, _Breaker] = field(default_factory=dict)

    def state(self, key: str) -> State:
        """Where this upstream's breaker stands."""
        breaker = self._breakers.get(key)
        if breaker is None:
            return State.CLOSED
        now = self.clock()
        if breaker.rest_until > now:
            return State.OPEN
        if not breaker.opened:
            return State.CLOSED
        return State.HALF_OPEN if now >= breaker.due_at else State.OPEN

    def states(self) -> dict[str, State]:
        """Every upstream that has failed at least once, and where its breaker stands."""
        return {key: self.state(key) for key in self._breakers}

    def allows(self, key: str) -> bool:
        """Whether to send a call there, if there is a choice."""
        return self.state(key) is not State.OPEN

    def order(self, targets: Sequence[T], key: Callable[[T], str]) -> list[T]:
        """The targets in their order without those that are open; if all are, the one that is due soonest."""
        usable = [target for target in targets if self.allows(key(target))]
        return usable or sorted(targets, key=lambda target: self._due_at(key(target)))[:1]

    def sent(self, key: str) -> None:
        """A call goes there: if it is the trial of a half-open breaker, others wait for its end."""
        breaker = self._breakers.get(key)
        if breaker is not None and breaker.opened and self.clock() >= breaker.due_at:
            breaker.due_at = self.clock() + self._cool_down(breaker)
            breaker.on_trial = True

    def succeeded(self, key: str) -> None:
        """It answered."""
        breaker = self._breakers.get(key)
        if breaker is None:
            return
        self._count(breaker, failed=False)
        breaker.failures = 0
        breaker.opened = 0
        breaker.on_trial = False
        breaker.rest_until = 0.0

    def failed(self, key: str, *, retry_after_seconds: float | None = None) -> None:
        """It did not answer, or asked for a rest."""
        breaker = self._breakers.setdefault(key, _Breaker())
        self._count(breaker, failed=True)
        breaker.failures += 1
        if retry_after_seconds is not None:
            rest = min(retry_after_seconds, self.config.longest_cool_down_seconds)
            breaker.rest_until = max(breaker.rest_until, self.clock() + rest)
        if breaker.opened and not breaker.on_trial:
            return  # many calls fail together when an upstream dies: together they are one reason
        if breaker.on_trial or breaker.failures >= self.config.consecutive_failures or self._too_many(breaker):
            breaker.opened += 1
            breaker.on_trial = False
            breaker.due_at = self.clock() + self._cool_down(breaker)

    def _due_at(self, key: str) -> float:
        breaker = self._breakers.get(key, _Breaker())
        return max(breaker.rest_until, breaker.due_at if breaker.opened else 0.0)

    def _cool_down(self, breaker: _Breaker) -> float:
        doubled: float = self.config.cool_down_seconds * 2 ** min(max(breaker.opened - 1, 0), 10)
        return min(doubled, self.config.longest_cool_down_seconds)

    def _count(self, breaker: _Breaker, *, failed: bool) -> None:
        now = self.clock()
        if now - breaker.window_start >= self.config.window_seconds:
            breaker.window_start, breaker.window_calls, breaker.window_failures = now, 0, 0
        breaker.window_calls += 1
        breaker.window_failures += failed

    def _too_many(self, breaker: _Breaker) -> bool:
        enough = breaker.window_calls >= self.config.error_rate_calls
        return enough and breaker.window_failures >= self.config.error_rate * breaker.window_calls


@dataclass(slots=True)
class RetryBudget:
    """Tries in place are at most `ratio` of the calls of the last window, so a broken upstream meets no storm."""

    clock: Clock = time.monotonic
    ratio: float = 0.1
    free_calls: int = 10
    window_seconds: float = 10.0
    _window_start: float = 0.0
    _calls: int = 0
    _retries: int = 0

    def called(self) -> None:
        """A call begins."""
        now = self.clock()
        if now - self._window_start >= self.window_seconds:
            self._window_start, self._calls, self._retries = now, 0, 0
        self._calls += 1

    def take(self) -> bool:
        """Whether one more try in place may be made; counts it if so."""
        if self._calls > self.free_calls and self._retries + 1 > self.ratio * self._calls:
            return False
        self._retries += 1
        return True
