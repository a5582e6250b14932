"""The servers of one pool: choosing one for a call, and what is known of the traffic to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from app.placement.choice import Candidate, choose
from app.placement.popularity import Popularity
from app.placement.rendezvous import rank
from app.placement.replica import Clock, Replica, new_replica
from app.placement.residency import Level
from app.types import Pool

SUSPECT_SECONDS = 1.0


class ReplicaSet:
    """The servers of one pool, and what is known of the traffic to them."""

    def __init__(self, pool: Pool, *, clock: Clock, usable: Callable[[str], bool]) -> None:
        self.pool = pool
        self.replicas = {url: new_replica(pool, url) for url in pool.replicas if is_address(url)}
        self.popularity = Popularity()
        self._clock = clock
        self._usable = usable
        self._left = asyncio.Event()
        self.waiting = 0

    def choose(self, adapter: str | None, affinity: str, *, avoid: Iterable[str] = ()) -> Replica | None:
        """The server for one more call, or None: there is none but those to avoid, or the best is full.

        Servers that are not well, suspects and open breakers are taken only when there is nobody else: a probe that was
        late on an overloaded machine must not turn a slow pool into one that refuses everybody.
        """
        avoided = frozenset(avoid)
        rest = [replica for replica in self.replicas.values() if replica.url not in avoided]
        well = [replica for replica in rest if replica.healthy] or rest
        trusted = [replica for replica in well if replica.suspect_until <= self._clock() and self._usable(replica.url)]
        url = choose(self._candidates(trusted or well, adapter, affinity))
        return None if url is None else self.replicas[url]

    def any_left(self, *, avoid: Iterable[str] = ()) -> bool:
        """Whether there is a server but those to avoid."""
        return bool(self.replicas.keys() - set(avoid))

    def called(self, adapter: str) -> None:
        """A call asks for this adapter."""
        self.popularity.count(adapter, self._clock())

    def leave(self, replica: Replica, model: str) -> None:
        """A call ends there: whoever waits for room may look again."""
        replica.leave(model)
        self._left.set()

    async def wait_for_room(self) -> None:
        """Return when a call has ended somewhere; who waits meanwhile is counted in `waiting`."""
        self._left.clear()
        self.waiting += 1
        try:
            await self._left.wait()
        finally:
            self.waiting -= 1

    async def wait_for_slot(self, replica: Replica, model: str, *, at_most: float) -> None:
        """Return when a call that has entered there may go; past its hold, and past `at_most` seconds, it may anyway.

        Calls that were held first go first; a call that is cancelled leaves no trace.
        """
        replica.hold(model)
        try:
            if replica.may_go(model, held=False):
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(min(at_most, replica.pace.hold_seconds)):
                    while not replica.may_go(model, held=True):
                        replica.stirred.clear()
                        await replica.stirred.wait()
        finally:
            replica.let_go(model)

    def heard(self) -> None:
        """Other gateways have told of their calls: there may be room now."""
        self._left.set()

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
        mean = (sum(replica.total_load for replica in usable) + 1) / max(1, len(usable))
        homes = 1 if adapter is None else self.popularity.homes(adapter, len(order))
        return [
            Candidate(
                url=replica.url,
                in_flight=replica.total_load,
                mean_in_flight=mean,
                distinct_adapters=replica.distinct_adapters,
                max_loras=self.pool.max_loras,
                runs_adapter=adapter is None or replica.runs(adapter),
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
