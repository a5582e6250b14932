"""The live state of vLLM servers: who runs what, who is well, which names each server knows.

Everything here is owned by one event loop and changes without waiting, so nothing needs a lock. A server's own list of
names is compared with ours every few seconds: a name that it lost is forgotten, a server that lost all has restarted
and holds nothing. Names registered while the list was on its way are left alone.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from app.placement.rendezvous import Candidate, choose
from app.placement.residency import Level, Residency
from app.types import Pool

PROBES_TO_FAIL = 2
SUSPECT_SECONDS = 1.0
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Registered:
    """A name that the server knows, where its files are, and since when we think so."""

    path: str
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
    in_flight: Counter[str] = field(default_factory=Counter)
    registered: OrderedDict[str, Registered] = field(default_factory=OrderedDict)
    restarts: int = 0

    def enter(self, model: str) -> None:
        """A call to this model begins here; what it runs is not unloaded while it lasts."""
        self.in_flight[model] += 1

    def leave(self, model: str) -> None:
        """It ends."""
        self.in_flight[model] -= 1
        if not self.in_flight[model]:
            del self.in_flight[model]

    def register(self, name: str, path: str, now: float) -> None:
        """The server has just loaded this adapter."""
        self.registered[name] = Registered(path, now)
        self.registered.move_to_end(name)
        self.residency.touch(name)

    def use(self, name: str) -> None:
        """A call runs with this adapter."""
        if name in self.registered:
            self.registered.move_to_end(name)
            self.residency.touch(name)

    def forget(self, name: str, *, known_at: float | None = None) -> None:
        """The server did not know this name at that time; what was registered later stands."""
        known = self.registered.get(name)
        if known is not None and (known_at is None or known.at <= known_at):
            del self.registered[name]

    def idle_least_recent(self) -> str | None:
        """The name to unload first: least recently used, with no call in flight."""
        return next((name for name in self.registered if not self.in_flight[name]), None)

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


class ReplicaSet:
    """The servers of one pool."""

    def __init__(self, pool: Pool, *, clock: Clock, usable: Callable[[str], bool]) -> None:
        self.pool = pool
        self.replicas = {url: new_replica(pool, url) for url in pool.replicas}
        self._clock = clock
        self._usable = usable

    def choose(self, adapter: str | None, affinity: str, *, avoid: Iterable[str] = ()) -> Replica | None:
        """The server for one more call, or None when none is well. Suspects are taken only if there is nobody else."""
        avoided = frozenset(avoid)
        well = [replica for replica in self.replicas.values() if replica.healthy and replica.url not in avoided]
        trusted = [replica for replica in well if replica.suspect_until <= self._clock() and self._usable(replica.url)]
        candidates = [_candidate(replica, adapter) for replica in trusted or well]
        url = choose(adapter or affinity, candidates)
        return None if url is None else self.replicas[url]

    def suspect(self, url: str) -> None:
        """A call failed there: others go first for a moment."""
        self.replicas[url].suspect_until = self._clock() + SUSPECT_SECONDS


def _candidate(replica: Replica, adapter: str | None) -> Candidate:
    distinct = len(replica.in_flight) - (replica.pool.base_model in replica.in_flight)
    return Candidate(
        url=replica.url,
        healthy=True,
        in_flight=replica.in_flight.total(),
        distinct_adapters=distinct,
        max_loras=replica.pool.max_loras,
        runs_adapter=adapter is None or adapter in replica.in_flight,
        level=Level.ABSENT if adapter is None else replica.residency.level(adapter),
    )
