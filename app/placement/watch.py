"""The rounds in which the gateway looks at every server: found, alive, what it lists, what is to be done there.

A round never stops at one bad server. Names that no alias means any more are taken off after they have drained: calls
in flight keep theirs, and a while passes first, so that a gateway whose policy is a moment older is not surprised. Idle
servers load what should be warm before anyone calls: chosen tenants' adapters, and the hottest ones at home there. Each
load stalls what a server decodes, so a busy server gets none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from app.placement.control import ReplicaControl, ReplicaError
from app.placement.discovery import Discovery
from app.placement.loader import AdapterLoader
from app.placement.reconcile import Plan, plan
from app.placement.rendezvous import rank
from app.placement.replica import Clock, Replica
from app.placement.replicas import ReplicaSet
from app.types import AdapterVersion

DRAIN_SECONDS = 10.0
HOTTEST = 256
LOADS_PER_ROUND = 4
Served = Callable[[], Mapping[str, AdapterVersion] | None]
_log = structlog.get_logger()


class Watch:
    """Looks after the servers of all pools.

    `served` is every version that an alias means now; without it nothing is taken off or loaded ahead. `revived` hears
    the address of a server that is well again.
    """

    def __init__(
        self,
        sets: Mapping[str, ReplicaSet],
        control: ReplicaControl,
        loader: AdapterLoader,
        *,
        clock: Clock,
        served: Served | None,
        revived: Callable[[str], None],
        discovery: Discovery | None = None,
    ) -> None:
        self._sets = sets
        self._control = control
        self._loader = loader
        self._clock = clock
        self._served = served
        self._revived = revived
        self._discovery = discovery or Discovery()
        self._stale_since: dict[tuple[str, str], float] = {}

    async def look(self) -> None:
        """Find the servers and take over what they say."""
        await asyncio.gather(*(self._find(replicas) for replicas in self._sets.values()))
        every = [replica for replicas in self._sets.values() for replica in replicas.replicas.values()]
        await asyncio.gather(*(self._look_at(replica) for replica in every))

    async def look_for_lost(self) -> None:
        """Ask those that are away whether they are back."""
        every = [replica for replicas in self._sets.values() for replica in replicas.replicas.values()]
        await asyncio.gather(*(self._look_at(replica) for replica in every if not replica.healthy))

    async def tend(self) -> None:
        """Do what the plans say: take stale names off, load what should be warm."""
        served = None if self._served is None else self._served()
        if served is None:
            return
        jobs = [
            self._carry_out(replica, self._plan(replicas, replica, served))
            for replicas in self._sets.values()
            for replica in replicas.replicas.values()
            if replica.healthy
        ]
        await asyncio.gather(*jobs)

    async def _find(self, replicas: ReplicaSet) -> None:
        urls = await self._discovery.addresses(replicas.pool.replicas)
        if set(urls) != set(replicas.replicas):
            _log.warning("replicas_found", pool=replicas.pool.name, count=len(urls))
            replicas.found(urls)

    async def _look_at(self, replica: Replica) -> None:
        was = replica.healthy
        alive = await self._control.alive(replica.pool, replica.url)
        replica.probed(alive=alive)
        if replica.healthy is not was:
            _log.warning("replica_health", replica=replica.url, healthy=replica.healthy)
        if not alive:
            return
        if not was:
            self._revived(replica.url)
        asked_at = self._clock()
        try:
            listed = await self._control.models(replica.pool, replica.url)
        except ReplicaError as exc:
            _log.warning("replica_list_failed", replica=replica.url, reason=str(exc))
            return
        if replica.reconcile(listed, asked_at=asked_at):
            _log.warning("replica_restarted", replica=replica.url)
        if replica.has_plugin is not False:
            await self._take_over_residency(replica)

    async def _take_over_residency(self, replica: Replica) -> None:
        """With our plugin the server says itself what it holds; without it the mirror stands."""
        try:
            resident = await self._control.residency(replica.pool, replica.url)
        except ReplicaError as exc:
            _log.info("residency_not_read", replica=replica.url, reason=str(exc))
            return
        replica.has_plugin = resident is not None
        if resident is not None:
            replica.residency.correct(resident.gpu, resident.host)

    def _plan(self, replicas: ReplicaSet, replica: Replica, served: Mapping[str, AdapterVersion]) -> Plan:
        made = plan(
            {name: known.path for name, known in replica.registered.items()},
            served={name: replica.pool.path_of(version) for name, version in served.items()},
            warm=_warm(replicas, replica, served),
            busy=replica.in_flight.keys() | replica.busy_elsewhere,
            places=replica.pool.max_cpu_loras,
        )
        return Plan(self._drained(replica.url, made.unload), made.load)

    def _drained(self, url: str, stale: tuple[str, ...]) -> tuple[str, ...]:
        """Those that have been stale for long enough."""
        now = self._clock()
        for known in [key for key in self._stale_since if key[0] == url and key[1] not in stale]:
            del self._stale_since[known]
        since = {name: self._stale_since.setdefault((url, name), now) for name in stale}
        return tuple(name for name in stale if now - since[name] >= DRAIN_SECONDS)

    async def _carry_out(self, replica: Replica, made: Plan) -> None:
        try:
            for name in made.unload:
                await self._loader.unload(replica, name)
            for version in made.load[-LOADS_PER_ROUND:]:
                if replica.distinct_adapters >= replica.pool.max_loras or self._loader.is_loading(replica):
                    return
                await self._loader.ensure(replica, version)
        except (ReplicaError, TimeoutError) as exc:
            _log.info("replica_not_tended", replica=replica.url, reason=str(exc) or type(exc).__name__)


def _warm(replicas: ReplicaSet, replica: Replica, served: Mapping[str, AdapterVersion]) -> list[AdapterVersion]:
    """What should be loaded before anyone calls: chosen tenants' first, then the hottest, where they are at home."""
    kept = [version for version in served.values() if version.tenant_id in replicas.pool.keep_warm]
    hot = [served[name] for name in replicas.popularity.hottest(HOTTEST) if name in served]
    urls = tuple(replicas.replicas)
    return [
        version
        for version in dict.fromkeys([*kept, *hot])
        if replica.url in rank(version.id, urls)[: replicas.popularity.homes(version.id, len(urls))]
        and replicas.pool.can_serve(version)
    ]
