"""A fleet of vLLM servers in discrete events: slots, two LRU levels, and a gateway that may hold calls back.

Serving takes an exponential time of mean 1. As in vLLM, a call whose adapter is not running waits while all slots are
taken, later calls of running adapters overtake it, and a freed slot goes to the call that has waited longest.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from statistics import fmean
from typing import NamedTuple

from app.placement.choice import DISTINCT_PER_SLOT
from app.placement.gate import Pace, may_go
from app.placement.residency import Level, Residency

REPLICAS, SLOTS, HOST, IN_FLIGHT = 8, 16, 128, 32


@dataclass(frozen=True, slots=True)
class Asked:
    """A call: its adapter, when it came, and whether the figures count it."""

    adapter: str
    came: float
    counted: bool


@dataclass(slots=True)
class Replica:
    """One simulated vLLM server, and what the gateway knows of it.

    Calls `in_flight` are `held` back by the gateway or `sent`; of those sent some are `running`, in a slot, the others
    `waiting` for one.
    """

    number: int
    residency: Residency = field(default_factory=lambda: Residency(max_loras=SLOTS, max_cpu_loras=HOST))
    in_flight: Counter[str] = field(default_factory=Counter)
    load: int = 0
    sent: Counter[str] = field(default_factory=Counter)
    running: Counter[str] = field(default_factory=Counter)
    waiting: list[tuple[Asked, float]] = field(default_factory=list)  # since when
    held: list[tuple[Asked, float]] = field(default_factory=list)  # until when at most
    pace: Pace = field(default_factory=Pace)

    def may_run(self, adapter: str) -> bool:
        """VLLM's rule."""
        return adapter in self.running or len(self.running) < SLOTS

    def may_go(self, asked: Asked, *, held: bool) -> bool:
        """Our gateway's."""
        return may_go(runs=asked.adapter in self.sent, free=SLOTS - len(self.sent), slots=SLOTS, held=held)

    def ended(self, adapter: str) -> None:
        """One call of the adapter has ended."""
        self.load -= 1
        for counter in (self.in_flight, self.sent, self.running):
            counter[adapter] -= 1
            if not counter[adapter]:
                del counter[adapter]


class Figures(NamedTuple):
    """One row of the table."""

    disk: float
    deferred: float
    wait: float
    p99: float
    imbalance: float


@dataclass(slots=True)
class Seen:
    """What one run has shown."""

    calls: int = 0
    disk: int = 0
    deferred: int = 0
    waits: list[float] = field(default_factory=list)
    imbalance: float = 0.0
    time: float = 0.0

    def figures(self) -> Figures:
        """What the table shows."""
        started = len(self.waits)
        return Figures(
            disk=self.disk / started,
            deferred=self.deferred / self.calls,
            wait=fmean(self.waits),
            p99=sorted(self.waits)[started * 99 // 100],
            imbalance=self.imbalance / self.time,
        )


Policy = Callable[[Asked, Sequence[Replica], float], int | None]  # None: the call waits until there is room for it


class Simulation:
    """One run of one policy; `gated` when the gateway holds calls back, as ours does."""

    def __init__(self, policy: Policy, dice: random.Random, *, gated: bool = False) -> None:
        self.seen = Seen()
        self._policy = policy
        self._dice = dice
        self._gated = gated
        self._replicas = [Replica(number) for number in range(REPLICAS)]
        self._outside: list[Asked] = []  # no replica was chosen for them yet
        self._events: list[tuple[float, int, Replica, Callable[[Replica], None]]] = []
        self._ids = count()
        self._now = 0.0
        self._counting = False

    def run(self, calls: Sequence[str], warm_up: int) -> Seen:
        """Let these calls arrive; the first `warm_up` are not counted."""
        for number, adapter in enumerate(calls):
            at = self._now + self._dice.expovariate(REPLICAS * IN_FLIGHT)
            while self._events and self._events[0][0] <= at:
                due, _, replica, happen = heapq.heappop(self._events)
                self._pass_time(due)
                happen(replica)
            self._pass_time(at)
            self._counting = number >= warm_up
            self._arrive(Asked(adapter, at, self._counting))
        return self.seen

    def _arrive(self, asked: Asked) -> None:
        self.seen.calls += asked.counted
        if not self._enter(asked):
            self.seen.deferred += asked.counted
            self._outside.append(asked)

    def _enter(self, asked: Asked) -> bool:
        """Have a replica chosen for it, unless it must wait for that."""
        chosen = self._policy(asked, self._replicas, self._now)
        if chosen is None:
            return False
        replica = self._replicas[chosen]
        replica.in_flight[asked.adapter] += 1
        replica.load += 1
        if not self._gated or replica.may_go(asked, held=False):
            self._send(replica, asked)
            self._let_go(replica)
        else:
            self.seen.deferred += asked.counted and asked.came == self._now
            until = self._now + replica.pace.hold_seconds
            replica.held.append((asked, until))
            self._at(until, replica, self._let_go)
        return True

    def _let_go(self, replica: Replica) -> None:
        """Send what need not be held any longer, those held longest first; each may bring others of its adapter."""
        while going := self._next_to_go(replica):
            replica.held.remove(going)
            self._send(replica, going[0])

    def _next_to_go(self, replica: Replica) -> tuple[Asked, float] | None:
        free = (one for one in replica.held if self._now >= one[1] or replica.may_go(one[0], held=True))
        return next(free, None)

    def _send(self, replica: Replica, asked: Asked) -> None:
        replica.sent[asked.adapter] += 1
        if replica.may_run(asked.adapter):
            self._start(replica, asked, self._now)
        else:
            self.seen.deferred += asked.counted and asked.came == self._now
            replica.waiting.append((asked, self._now))

    def _start(self, replica: Replica, asked: Asked, sent: float) -> None:
        replica.running[asked.adapter] += 1
        if asked.counted:
            self.seen.disk += replica.residency.level(asked.adapter) is Level.ABSENT
            self.seen.waits.append(self._now - asked.came)
        replica.residency.touch(asked.adapter)
        self._at(self._now + self._dice.expovariate(1), replica, partial(self._end, asked.adapter, sent))

    def _end(self, adapter: str, sent: float, replica: Replica) -> None:
        replica.ended(adapter)
        replica.pace.ran(self._now - sent)
        if adapter not in replica.running:
            self._start_waiting(replica)
        self._let_go(replica)
        self._look_again(replica)

    def _start_waiting(self, replica: Replica) -> None:
        waiting, replica.waiting = replica.waiting, []
        for asked, since in waiting:
            if replica.may_run(asked.adapter):
                self._start(replica, asked, since)
            else:
                replica.waiting.append((asked, since))

    def _look_again(self, replica: Replica) -> None:
        """Calls that wait outside are chosen for again, as long as there is room where one has just ended."""
        waiting, self._outside = self._outside, []
        for asked in waiting:
            is_full = len(replica.in_flight) >= DISTINCT_PER_SLOT * SLOTS
            if is_full or not self._enter(asked):
                self._outside.append(asked)

    def _at(self, due: float, replica: Replica, happen: Callable[[Replica], None]) -> None:
        heapq.heappush(self._events, (due, next(self._ids), replica, happen))

    def _pass_time(self, at: float) -> None:
        total = sum(replica.load for replica in self._replicas)
        if self._counting and total:
            self.seen.time += at - self._now
            self.seen.imbalance += (at - self._now) * max(r.load for r in self._replicas) * REPLICAS / total
        self._now = at
