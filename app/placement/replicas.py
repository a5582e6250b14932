"""The live state of vLLM servers: who runs what, who is well, which names each server knows.

Everything here is owned by one event loop and changes without waiting, so nothing needs a lock. A server's own list of
names is compared with ours every few seconds: a name that it lost is forgotten, a server that lost all has restarted
and holds nothing. Names registered while the list was on its way are left alone.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from app.placement.choice import Candidate, choose
from app.placement.popularity import Popularity
from app.placement.rendezvous import rank
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
    load: int = 0
    restarts: int = 0

    @property
    def distinct_adapters(self) -> int:
        """How many different adapters the calls in flight use."""
        return len(self.in_flight) - (self.pool.base_model in self.in_flight)

    def enter(self, model: str) -> None:
        """A call to this model begins here; what it runs is not unloaded while it lasts."""
        self.in_flight[model] += 1
        self.load += 1

    def leave(self, model: str) -> None:
        """It ends."""
        self.load -= 1
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
    """The servers of one pool, and what is known of the traffic to them."""

    def __init__(self, pool: Pool, *, clock: Clock, usable: Callable[[str], bool]) -> None:
        self.pool = pool
        self.replicas = {url: new_replica(pool, url) for url in pool.replicas if is_address(url)}
        self.popularity = Popularity()
        self._clock = clock
        self._usable = usable
        self._left = asyncio.Event()

    def choose(self, adapter: str | None, affinity: str, *, avoid: Iterable[str] = ()) -> Replica | None:
        """The server for one more call, or None: none is well, or all are full. Suspects are taken only as the last."""
        avoided = frozenset(avoid)
        well = [replica for replica in self.replicas.values() if replica.healthy and replica.url not in avoided]
        trusted = [replica for replica in well if replica.suspect_until <= self._clock() and self._usable(replica.url)]
        url = choose(self._candidates(trusted or well, adapter, affinity))
        return None if url is None else self.replicas[url]

    def any_well(self, *, avoid: Iterable[str] = ()) -> bool:
        """Whether a server is well, full or not."""
        avoided = frozenset(avoid)
        return any(replica.healthy and replica.url not in avoided for replica in self.replicas.values())

    def called(self, adapter: str) -> None:
        """A call asks for this adapter."""
        self.popularity.count(adapter, self._clock())

    def leave(self, replica: Replica, model: str) -> None:
        """A call ends there: whoever waits for room may look again."""
        replica.leave(model)
        self._left.set()

    async def wait_for_room(self) -> None:
        """Return when a call has ended somewhere."""
        self._left.clear()
        await self._left.wait()

    def suspect(self, url: str) -> None:
        """A call failed there: others go first for a moment."""
        if url in self.replicas:
            self.replicas[url].suspect_until = self._clock() + SUSPECT_SECONDS

    def found(self, urls: Sequence[str]) -> None:
        """These are the pool's servers now; new ones take calls after their first good probe."""
        for url in set(self.replicas) - set(urls):
            del self.replicas[url]
        for url in urls:
            if url not in self.replicas:
                self.replicas[url] = new_replica(self.pool, url)
                self.replicas[url].healthy = False

    def _candidates(self, usable: Sequence[Replica], adapter: str | None, affinity: str) -> list[Candidate]:
        order = {url: place for place, url in enumerate(rank(adapter or affinity, tuple(self.replicas)))}
        mean = (sum(replica.load for replica in usable) + 1) / max(1, len(usable))
        homes = 1 if adapter is None else self.popularity.homes(adapter, len(order))
        return [
            Candidate(
                url=replica.url,
                in_flight=replica.load,
                mean_in_flight=mean,
                distinct_adapters=replica.distinct_adapters,
                max_loras=self.pool.max_loras,
                runs_adapter=adapter is None or adapter in replica.in_flight,
                level=Level.GPU if adapter is None else replica.residency.level(adapter),
                place=order[replica.url],
                homes=homes,
                replicas=len(order),
            )
            for replica in usable
        ]


def is_address(source: str) -> bool:
    """Whether this is one server's address, not a place where addresses are found."""
    return source.startswith(("http://", "https://"))
