"""One vLLM server as the gateway knows it: what it runs, whether it is well, which names it knows.

Owned by one event loop and changed without waiting, so nothing needs a lock. The server's own list of names is compared
with ours every few seconds: a name that it lost is forgotten, a server that lost all has restarted and holds nothing.
Names registered while the list was on its way are left alone. What other gateways run there is heard from them, and
counts like our own calls until they have been silent for a while.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from app.placement.gate import Pace, may_go
from app.placement.residency import Residency
from app.types import Pool

PROBES_TO_FAIL = 2
HEARD_SECONDS = 3.0
IDLE_SECONDS = 5.0  # longer than other gateways need to tell of a call
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Registered:
    """A name that the server knows, where its files are, and since when we think so."""

    path: str
    at: float


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Calls that another gateway has in flight on a server, those of them that it has sent, and when it said so."""

    in_flight: Mapping[str, int]
    running: Mapping[str, int]
    at: float


@dataclass(slots=True)
class Replica:
    """One vLLM server."""

    url: str
    pool: Pool
    residency: Residency
    healthy: bool = True
    failed_probes: int = PROBES_TO_FAIL - 1  # until a probe succeeds, one failure is enough
    suspect_until: float = 0.0
    in_flight: Counter[str] = field(default_factory=Counter)  # waiting for their adapter's load included
    held: Counter[str] = field(default_factory=Counter)  # of those in flight, held back until a slot suits them
    running: Counter[str] = field(default_factory=Counter)  # sent, and not ended
    pace: Pace = field(default_factory=Pace)
    stirred: asyncio.Event = field(default_factory=asyncio.Event)  # set when a call that is held back may go now
    used_at: dict[str, float] = field(default_factory=dict)
    registered: OrderedDict[str, Registered] = field(default_factory=OrderedDict)
    load: int = 0
    restarts: int = 0
    has_plugin: bool | None = None  # whether it tells its residency and unloads for real; None until it was asked
    uses: Counter[str] = field(default_factory=Counter)  # calls that the other gateways have not been told of yet
    elsewhere: dict[str, Elsewhere] = field(default_factory=dict)
    load_elsewhere: int = 0
    busy_elsewhere: frozenset[str] = frozenset()
    running_elsewhere: frozenset[str] = frozenset()

    @property
    def total_load(self) -> int:
        """Calls in flight, those of other gateways too."""
        return self.load + self.load_elsewhere

    @property
    def distinct_adapters(self) -> int:
        """How many different adapters the calls in flight use, those of other gateways too."""
        names = self.in_flight.keys() | self.busy_elsewhere if self.busy_elsewhere else self.in_flight.keys()
        return len(names) - (self.pool.base_model in names)

    def runs(self, model: str) -> bool:
        """Whether a call in flight uses this model."""
        return model in self.in_flight or model in self.busy_elsewhere

    def heard(self, gateway: str, in_flight: Mapping[str, int], running: Mapping[str, int], now: float) -> None:
        """Another gateway has these calls in flight there now, and has sent those that are running."""
        self.elsewhere[gateway] = Elsewhere(dict(in_flight), dict(running), now)
        self.forget_silent(now)

    def forget_silent(self, now: float) -> None:
        """Gateways that have said nothing for a while have no calls there any more."""
        self.elsewhere = {name: one for name, one in self.elsewhere.items() if now - one.at <= HEARD_SECONDS}
        self.load_elsewhere = sum(sum(one.in_flight.values()) for one in self.elsewhere.values())
        self.busy_elsewhere = frozenset(name for one in self.elsewhere.values() for name in one.in_flight)
        self.running_elsewhere = frozenset(name for one in self.elsewhere.values() for name in one.running)
        self.stirred.set()

    def enter(self, model: str) -> None:
        """A call to this model begins here; what it runs is not unloaded while it lasts."""
        self.in_flight[model] += 1
        self.uses[model] += 1
        self.load += 1

    def leave(self, model: str) -> None:
        """It ends."""
        self.load -= 1
        self.in_flight[model] -= 1
        if not self.in_flight[model]:
            del self.in_flight[model]
        self.stirred.set()

    def hold(self, model: str) -> None:
        """A call that has entered waits for a slot: it takes none yet."""
        self.held[model] += 1

    def let_go(self, model: str) -> None:
        """It goes, or gives up."""
        self.held[model] -= 1
        if not self.held[model]:
            del self.held[model]
        self.stirred.set()

    def may_go(self, model: str, *, held: bool) -> bool:
        """Whether a call in hold may go now; `held` once it has found no slot. The base model needs none."""
        taken = {name for name, calls in self.in_flight.items() if calls > self.held[name]} | self.running_elsewhere
        taken.discard(self.pool.base_model)
        slots = self.pool.max_loras
        runs = model == self.pool.base_model or model in taken
        return may_go(runs=runs, free=slots - len(taken), slots=slots, held=held)

    def register(self, name: str, path: str, now: float) -> None:
        """The server has just loaded this adapter."""
        self.registered[name] = Registered(path, now)
        self.use(name, now)

    def use(self, name: str, now: float) -> None:
        """A call runs with this adapter."""
        if name in self.registered:
            self.registered.move_to_end(name)
            self.used_at[name] = now
            self.residency.touch(name)

    def forget(self, name: str, *, known_at: float | None = None) -> None:
        """The server did not know this name at that time; what was registered later stands."""
        known = self.registered.get(name)
        if known is not None and (known_at is None or known.at <= known_at):
            del self.registered[name]
            self.used_at.pop(name, None)

    def sent(self, model: str) -> None:
        """A call has been let through to the server."""
        self.running[model] += 1

    def ended(self, model: str) -> None:
        """Its answer is complete, or broken off."""
        self.running[model] -= 1
        if not self.running[model]:
            del self.running[model]

    def is_quiet(self, name: str) -> bool:
        """Whether no call that was sent under this name is still running, from here or elsewhere."""
        return name not in self.running and name not in self.running_elsewhere

    def idle_least_recent(self, now: float) -> str | None:
        """The name to unload first: least recently used, unused for a while, with no call in flight."""
        for name, known in self.registered.items():
            if not self.runs(name) and now - self.used_at.get(name, known.at) >= IDLE_SECONDS:
                return name
        return None

    def probed(self, *, alive: bool) -> None:
        """The result of a health probe: two failures in a row take the server out, one success brings it back."""
        self.failed_probes = 0 if alive else self.failed_probes + 1
        self.healthy = self.failed_probes < PROBES_TO_FAIL

    def reconcile(self, listed: Mapping[str, str], *, asked_at: float) -> bool:
        """Take over the server's own list; True when it shows that the server has restarted."""
        ours = [name for name, known in self.registered.items() if known.at < asked_at]
        lost = [name for name in ours if name not in listed]
        restarted = bool(lost) and len(lost) == len(ours)
        if restarted:
            self.residency.reset()
            self.restarts += 1
            self.has_plugin = None
        for name in lost:
            self.forget(name)
        for name, path in listed.items():
            known = self.registered.get(name)
            if known is None or (known.path != path and known.at < asked_at):
                self.registered[name] = Registered(path, asked_at)  # another gateway loaded it: it is in use there
        return restarted


def new_replica(pool: Pool, url: str) -> Replica:
    """A server of which nothing is known yet."""
    return Replica(url, pool, Residency(max_loras=pool.max_loras, max_cpu_loras=pool.max_cpu_loras))
