"""Getting an adapter onto a server: once, however many calls wait for it.

Single flight: calls that need the same adapter on the same server share one load, which goes on if they leave. Loads on
one server come one after another, for each stalls what the server is decoding. The server's word is checked where it
may be stale: after a time-out, and when it says that the name is already there, its list decides (same path, or load
again). `check` then looks whether the adapter has an effect there. A refused adapter is remembered for a while, so that
a broken one does not stall the server at every call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from app.placement.control import AlreadyLoaded, InvalidAdapter, ReplicaControl, ReplicaError
from app.placement.replica import Clock, Replica
from app.placement.reports import Observe, ignore
from app.types import AdapterVersion

ATTEMPTS = 3
BACKOFF_SECONDS = 0.1
QUIET_SECONDS = 2.0
QUIET_POLL_SECONDS = 0.02
TOLD_SECONDS = 1.0  # by then every gateway has told of a call that had begun when a name was taken off
NAMES_PER_PLACE = 8  # a name costs the server nothing; its weights leave host memory by the server's own LRU
REMEMBER_INVALID_SECONDS = 30.0
REMEMBER_FAILED_SECONDS = 1.0
Check = Callable[[Replica, AdapterVersion], Awaitable[None]]
_log = structlog.get_logger()


async def trust(replica: Replica, adapter: AdapterVersion) -> None:
    """Checks nothing."""


class AdapterLoader:
    """Keeps adapters registered on servers. `observe` is told pool, outcome and seconds of every load and unload."""

    def __init__(
        self,
        control: ReplicaControl,
        *,
        clock: Clock = time.monotonic,
        observe: Observe = ignore,
        check: Check = trust,
        names_per_place: int = NAMES_PER_PLACE,
    ) -> None:
        self._control = control
        self._names_per_place = names_per_place
        self._check = check
        self._clock = clock
        self._observe = observe
        self._loads: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._refused: dict[tuple[str, str], tuple[float, ReplicaError]] = {}
        self._taken_off: dict[tuple[str, str], float] = {}

    async def close(self) -> None:
        """Stop the loads that are under way."""
        loads = list(self._loads.values())
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)

    async def ensure(self, replica: Replica, adapter: AdapterVersion) -> None:
        """Return when the server knows this adapter; raises InvalidAdapter, ReplicaError, or TimeoutError."""
        known = replica.registered.get(adapter.id)
        if known is not None and known.path == replica.pool.path_of(adapter):
            replica.use(adapter.id, self._clock())
            return
        key = (replica.url, adapter.id)
        self._raise_remembered(key)
        load = self._loads.get(key)
        if load is None:
            load = self._loads[key] = asyncio.create_task(self._load(replica, adapter))
            load.add_done_callback(lambda done: self._ended(key, done))
        async with asyncio.timeout(replica.pool.load_timeout_seconds):
            await asyncio.shield(load)

    async def unload(self, replica: Replica, name: str) -> None:
        """Take a name off a server, unless a call has begun on it meanwhile; raises ReplicaError."""
        async with self._turn(replica):
            if not replica.runs(name):
                await self._take_off(replica, name)

    def refused(self, replica: Replica) -> dict[str, str]:
        """Versions that the server has refused lately, and its words."""
        now = self._clock()
        return {
            name: str(error)
            for (url, name), (until, error) in self._refused.items()
            if url == replica.url and now < until
        }

    def refuses(self, replica: Replica, name: str) -> bool:
        """Whether the server has refused this version lately: it is not asked again yet."""
        refused = self._refused.get((replica.url, name))
        return refused is not None and self._clock() < refused[0]

    def is_loading(self, replica: Replica) -> bool:
        """Whether a load is under way on this server."""
        return self._turn(replica).locked()

    def _turn(self, replica: Replica) -> asyncio.Lock:
        return self._turns.setdefault(replica.url, asyncio.Lock())

    def _ended(self, key: tuple[str, str], load: asyncio.Task[None]) -> None:
        del self._loads[key]
        if load.cancelled():
            return
        error = load.exception()  # looked at here, for every waiter may have left
        if isinstance(error, ReplicaError):
            seconds = REMEMBER_INVALID_SECONDS if isinstance(error, InvalidAdapter) else REMEMBER_FAILED_SECONDS
            self._refused[key] = (self._clock() + seconds, error)

    def _raise_remembered(self, key: tuple[str, str]) -> None:
        until, error = self._refused.get(key, (0.0, None))
        if error is not None and self._clock() < until:
            raise type(error)(str(error))
        self._refused.pop(key, None)

    async def _load(self, replica: Replica, adapter: AdapterVersion) -> None:
        async with self._turn(replica):
            started = self._clock()
            await self._make_room(replica)
            try:
                await self._until_quiet(replica, adapter.id)
                await self._persist(replica, adapter)
            except ReplicaError as exc:
                self._observe(replica.pool.name, "failed", self._clock() - started)
                _log.warning("adapter_load_failed", replica=replica.url, adapter=adapter.id, reason=str(exc))
                raise
            replica.register(adapter.id, replica.pool.path_of(adapter), self._clock())
            self._observe(replica.pool.name, "loaded", self._clock() - started)
            _log.info("adapter_loaded", replica=replica.url, adapter=adapter.id)

    async def _persist(self, replica: Replica, adapter: AdapterVersion) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self._attempt(replica, adapter)
                await self._check(replica, adapter)
            except InvalidAdapter:
                raise
            except ReplicaError:
                if attempt == ATTEMPTS:
                    raise
                await asyncio.sleep(BACKOFF_SECONDS * 2 ** (attempt - 1))
            else:
                return

    async def _attempt(self, replica: Replica, adapter: AdapterVersion) -> None:
        try:
            await self._control.load(replica.pool, replica.url, adapter)
        except InvalidAdapter:
            raise
        except AlreadyLoaded:
            if await self._is_there(replica, adapter):
                return
            await self._control.unload(replica.pool, replica.url, adapter.id)
            await self._control.load(replica.pool, replica.url, adapter)
        except ReplicaError:
            if not await self._is_there(replica, adapter):
                raise

    async def _is_there(self, replica: Replica, adapter: AdapterVersion) -> bool:
        with suppress(ReplicaError):
            listed = await self._control.models(replica.pool, replica.url)
            return listed.get(adapter.id) == replica.pool.path_of(adapter)
        return False

    async def _until_quiet(self, replica: Replica, name: str) -> None:
        """Wait until no call of an earlier registration of the name is running; raises ReplicaError when one goes on.

        vLLM 0.32 gives a name that was unloaded and loaded again a new number, and its engine dies of one batch with
        both: its requests are equal by name, so one number gets no slot. A name that we have just taken off may have
        been called by another gateway meanwhile, which will tell of it.
        """
        now = self._clock()
        until, told = now + QUIET_SECONDS, self._taken_off.get((replica.url, name), now - TOLD_SECONDS) + TOLD_SECONDS
        while (now := self._clock()) < told or not replica.is_quiet(name):
            if now > until:
                raise ReplicaError("a call of an earlier registration is still running there")
            await asyncio.sleep(QUIET_POLL_SECONDS)

    async def _make_room(self, replica: Replica) -> None:
        """Unload idle names, least recently used first, until there is room for one more."""
        while len(replica.registered) >= self._names_per_place * replica.pool.max_cpu_loras:
            name = replica.idle_least_recent(self._clock())
            if name is None:
                return  # all are in use: the server takes one more name, and evicts by itself
            try:
                await self._take_off(replica, name)
            except ReplicaError as exc:
                _log.warning("adapter_unload_failed", replica=replica.url, adapter=name, reason=str(exc))

    async def _take_off(self, replica: Replica, name: str) -> None:
        replica.forget(name)
        now = self._clock()
        self._taken_off = {key: at for key, at in self._taken_off.items() if now - at < TOLD_SECONDS}
        self._taken_off[replica.url, name] = now
        await self._control.unload(replica.pool, replica.url, name, really=replica.has_plugin is True)
        if replica.has_plugin:
            replica.residency.drop(name)
        self._observe(replica.pool.name, "unloaded", 0.0)
        _log.info("adapter_unloaded", replica=replica.url, adapter=name)
