"""From a target to an address: a provider's own, or a server of the pool with the adapter loaded.

The model name that is sent is always the version's id, so an answer can only come from that version: a server that does
not know it says 404, its registration is forgotten, and the next try loads it again. A call counts as in flight from
the choice until its end, waiting included, which keeps its adapter from being unloaded under it. A wait for a cold
adapter is bounded; then the call is refused with Retry-After. Never the base model instead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, nullcontext, suppress
from types import TracebackType
from typing import Protocol, Self

import structlog

from app.errors import Unavailable, UpstreamFailed
from app.placement.control import InvalidAdapter, ReplicaControl, ReplicaError
from app.placement.effect import EffectCheck
from app.placement.endpoints import Endpoints
from app.placement.gossip import Gossip
from app.placement.loader import AdapterLoader
from app.placement.replica import Clock, Replica
from app.placement.replicas import ReplicaSet
from app.placement.reports import PlacementReports
from app.placement.watch import Served, Watch
from app.types import Endpoint, Pool, PoolStatus, Provider, ReplicaStatus, Target

RECONCILE_SECONDS = 2.0
LOST_PART = 0.25  # of that time, between two looks at a server that is away
REPLICAS_TO_TRY = 2
HOLD_PART = 0.5  # of the time that a call has left, the most that it is held back; the rest is for its adapter's load
RETRY_AFTER_SECONDS = 2
NOBODY = PlacementReports()
_log = structlog.get_logger()


class Breakers(Protocol):
    """What the circuit breakers know of servers, by address."""

    def allows(self, key: str) -> bool:
        """Whether to send a call there, if there is a choice."""
        ...

    def succeeded(self, key: str) -> None:
        """It is well again."""
        ...


class NoBreakers:
    """Every server may be used."""

    def allows(self, key: str) -> bool:
        """Whether to send a call there."""
        return bool(key)

    def succeeded(self, key: str) -> None:
        """It is well again."""


class ReplicaPlacement:
    """Implements `app.interfaces.Placement`; use it with `async with`, and keep `run()` running beside it.

    A breaker orders servers, it never shuts the last one out. `gossip` is how gateways on the same servers agree: give
    it a channel, or none. `served` is every version that an alias means now:
    with it, servers are relieved of versions that nobody can call any more, and warmed with those that many will.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        pools: Mapping[str, Pool],
        *,
        breakers: Breakers | None = None,
        served: Served | None = None,
        clock: Clock = time.monotonic,
        reports: PlacementReports = NOBODY,
        reconcile_seconds: float = RECONCILE_SECONDS,
    ) -> None:
        breakers = breakers or NoBreakers()
        self._sets = {name: ReplicaSet(pool, clock=clock, usable=breakers.allows) for name, pool in pools.items()}
        self._endpoints = Endpoints(providers)
        self._clock = clock
        self._reports = reports
        self._reconcile_seconds = reconcile_seconds
        self._control = ReplicaControl()
        self.gossip = Gossip(self._sets, clock=clock)
        self._effects = EffectCheck(self._control)
        self._loader = AdapterLoader(self._control, clock=clock, observe=reports.adapter, check=self._effects)
        self._watch = Watch(
            self._sets, self._control, self._loader, clock=clock, served=served, revived=breakers.succeeded
        )

    async def __aenter__(self) -> Self:
        await self._control.__aenter__()
        await self._watch.look()
        await asyncio.gather(*(self._learn_base(replicas) for replicas in self._sets.values()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._loader.close()
        await self._control.__aexit__(kind, exc, trace)

    def place(self, target: Target, affinity: str) -> AbstractAsyncContextManager[Endpoint]:
        """Choose a provider address or a replica, loading the adapter first if it must; or raise Unavailable."""
        if target.is_pool:
            return self._on_pool(target, affinity)
        return nullcontext(self._endpoints.of_provider(target))

    async def check(self) -> str | None:
        """None when ready, else one sentence that names the pools without a server."""
        missing = self._missing()
        return f"no replica answers in: {', '.join(missing)}" if missing else None

    def status(self) -> list[PoolStatus]:
        """Every pool and its servers, as this process sees them now."""
        return [
            PoolStatus(
                name,
                replicas.pool.base_model,
                replicas.waiting,
                [_status(replica, self._loader.refused(replica)) for replica in replicas.replicas.values()],
            )
            for name, replicas in self._sets.items()
        ]

    async def run(self) -> None:
        """Look after the servers every few seconds, until cancelled; a slow load delays no look."""
        async with asyncio.TaskGroup() as group:
            group.create_task(_again_and_again(self._watch.look, self._reconcile_seconds))
            group.create_task(_again_and_again(self._watch.look_for_lost, self._reconcile_seconds * LOST_PART))
            group.create_task(_again_and_again(self._watch.tend, self._reconcile_seconds))

    async def _learn_base(self, replicas: ReplicaSet) -> None:
        """Ask a pool's base model before there is traffic; one that is not up yet is asked beside its first adapter."""
        for replica in replicas.replicas.values():
            if replica.healthy:
                with suppress(ReplicaError):
                    await self._effects.learn(replica)
                return

    @asynccontextmanager
    async def _on_pool(self, target: Target, affinity: str) -> AsyncIterator[Endpoint]:
        asked_at, replicas = self._clock(), self._pool_for(target)
        replica = await self._take(replicas, target, affinity)
        endpoint = self._endpoints.of_replica(replica, target)
        started = self._clock()
        self._reports.placed(replicas.pool.name, started - asked_at)
        replica.sent(_model(target))
        try:
            yield endpoint
        except UpstreamFailed as exc:
            if exc.model_missing:
                replica.forget(endpoint.model, known_at=started)
            else:
                replicas.suspect(replica.url)
            raise
        finally:
            replica.ended(_model(target))
            replica.pace.ran(self._clock() - started)
            replicas.leave(replica, _model(target))
            if target.adapter is not None:
                replica.use(target.adapter.id, self._clock())

    async def _take(self, replicas: ReplicaSet, target: Target, affinity: str) -> Replica:
        """A server with the adapter loaded, entered; waits for room and for the load, within the pool's load time."""
        if target.adapter is not None:
            replicas.called(target.adapter.id)
        try:
            until = asyncio.get_running_loop().time() + _patience(replicas, target)
            async with asyncio.timeout_at(until):
                return await self._first_that_can(replicas, target, affinity, until)
        except TimeoutError:
            message = "The model is still being loaded, or waits for others to finish."
            raise Unavailable(message, retry_after_seconds=RETRY_AFTER_SECONDS) from None

    async def _first_that_can(self, replicas: ReplicaSet, target: Target, affinity: str, until: float) -> Replica:
        adapter = None if target.adapter is None else target.adapter.id
        avoid = [url for url, one in replicas.replicas.items() if adapter and self._loader.refuses(one, adapter)]
        message = _refused(target) if avoid else f"No server of the pool '{target.upstream}' answers."
        most = len(avoid) + REPLICAS_TO_TRY
        while len(avoid) < most and replicas.any_left(avoid=avoid):
            replica = replicas.choose(adapter, affinity, avoid=avoid)
            if replica is None:
                await replicas.wait_for_room()
                continue
            try:
                await self._enter(replicas, replica, target, until)
            except InvalidAdapter:
                message = _refused(target)
            except ReplicaError:
                message = "The model could not be loaded just now."
            else:
                return replica
            avoid.append(replica.url)
        raise Unavailable(message, retry_after_seconds=RETRY_AFTER_SECONDS)

    async def _enter(self, replicas: ReplicaSet, replica: Replica, target: Target, until: float) -> None:
        """Count the call in, let it have a slot, then have its adapter loaded.

        The order keeps the adapter from being unloaded between, and from pushing out another before it may run.
        """
        model = _model(target)
        with ExitStack() as undo:
            replica.enter(model)
            undo.callback(replicas.leave, replica, model)
            if target.adapter is not None:
                left = until - asyncio.get_running_loop().time()
                await replicas.wait_for_slot(replica, model, at_most=left * HOLD_PART)
                await self._loader.ensure(replica, target.adapter)
            undo.pop_all()

    def _pool_for(self, target: Target) -> ReplicaSet:
        """The pool that the target names; for an adapter of too high a rank, the smallest of its family that fits."""
        named = self._sets.get(target.upstream)
        if named is None:
            raise Unavailable(f"The pool '{target.upstream}' is not configured here.", retry_after_seconds=30)
        version = target.adapter
        if version is None or named.pool.can_serve(version):
            return named
        family = [s for s in self._sets.values() if s.pool.family is not None and s.pool.family == named.pool.family]
        fitting = [replicas for replicas in family if replicas.pool.can_serve(version)]
        if not fitting:
            message = f"The adapter's rank is {version.rank}; the pool '{target.upstream}' takes less."
            raise Unavailable(message, retry_after_seconds=30)
        return min(fitting, key=lambda replicas: replicas.pool.max_lora_rank or version.rank)

    def _missing(self) -> list[str]:
        return [
            name
            for name, replicas in self._sets.items()
            if not any(replica.healthy for replica in replicas.replicas.values())
        ]


async def _again_and_again(job: Callable[[], Awaitable[None]], seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        await job()


def _refused(target: Target) -> str:
    return f"The pool '{target.upstream}' cannot load the adapter version '{_model(target)}'."


def _model(target: Target) -> str:
    return target.adapter.id if target.adapter is not None else target.model


def _status(replica: Replica, refused: Mapping[str, str]) -> ReplicaStatus:
    return ReplicaStatus(
        url=replica.url,
        healthy=replica.healthy,
        in_flight=replica.total_load,
        adapters_in_flight=replica.distinct_adapters,
        held=replica.held.total(),
        loading=replica.load - replica.held.total() - replica.running.total(),
        running=replica.running.total(),
        restarts=replica.restarts,
        has_plugin=replica.has_plugin is True,
        registered=list(replica.registered),
        gpu=list(replica.residency.gpu),
        host=list(replica.residency.host),
        refused=dict(refused),
    )


def _patience(replicas: ReplicaSet, target: Target) -> float:
    """How long a call may wait for room and for its adapter's load, in seconds."""
    longest = replicas.pool.load_timeout_seconds
    return longest if target.cold_wait_ms is None else min(longest, target.cold_wait_ms / 1000)
