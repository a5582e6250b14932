"""The only place that tries again: target after target, until the first bytes of an answer are here.

Another target is tried after UpstreamFailed and Unavailable; a refusal (4xx) is the caller's and is final. In place,
a call is tried again on a pool (placement then takes another server, or loads the adapter again if the server lost it)
and where a kept-alive connection proved stale. The retry budget bounds these tries, but for two reasons that cannot
make a storm: a lost adapter (a server that restarts loses all of them at once) and a lost connection of a pool (a dead
server answers nobody, and its breaker opens). Time-outs are not tried again in place: the caller has waited.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType

import structlog

from app.backends.begun import Begun, begin
from app.backends.health import Health, RetryBudget
from app.errors import GatewayError, Unavailable, UpstreamFailed, UpstreamTimedOut
from app.interfaces import Backend, Outgoing, Placement, Upstream
from app.types import Call, Choice, Target

TRIES = 3
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Failover:
    """Opens a call at the first of its targets that answers."""

    placement: Placement
    backend: Backend
    embedded: Backend
    health: Health
    retries: RetryBudget

    def reach(
        self, choice: Choice, call: Call, record: Outgoing, request_id: str, affinity: str
    ) -> AbstractAsyncContextManager[tuple[Target, Upstream]]:
        """The first target of this choice that begins to answer, open until the context ends."""
        return self.open_first(choice.targets, call, request_id=request_id, affinity=affinity, sent=record.sent)

    def open_first(
        self, targets: Sequence[Target], call: Call, *, request_id: str, affinity: str, sent: Callable[[Target], None]
    ) -> AbstractAsyncContextManager[tuple[Target, Upstream]]:
        """As `reach`, told by `sent` of every target that a call really goes to."""
        return _Attempts(self, targets, call, request_id, affinity, sent)


class _Nobody:
    """Takes the place of `Health` where nothing may be learned of an upstream."""

    def sent(self, key: str) -> None: ...

    def succeeded(self, key: str) -> None: ...

    def failed(self, key: str, *, retry_after_seconds: float | None = None) -> None: ...


class _Attempts:
    """One call's way through its targets."""

    def __init__(
        self,
        failover: Failover,
        targets: Sequence[Target],
        call: Call,
        request_id: str,
        affinity: str,
        sent: Callable[[Target], None],
    ) -> None:
        self._failover = failover
        self._targets = targets
        self._call = call
        self._request_id = request_id
        self._affinity = affinity
        self._sent = sent
        self._open: AbstractAsyncContextManager[Begun] | None = None

    async def __aenter__(self) -> tuple[Target, Upstream]:
        self._failover.retries.called()
        last: GatewayError | None = None
        for target in self._failover.health.order(self._targets, _breaker):
            try:
                return target, await self._answering(target)
            except (UpstreamFailed, Unavailable) as exc:
                last = exc
        raise last or Unavailable("No upstream is configured for this model.")

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is not None:
            await self._open.__aexit__(kind, exc, trace)

    async def _answering(self, target: Target) -> Begun:
        for _ in range(TRIES - 1):
            try:
                return await self._enter(target)
            except UpstreamFailed as exc:
                if not self._may_retry(target, exc):
                    raise
                lost = exc.model_missing
            _log.info("upstream_retried", upstream=target.upstream, request_id=self._request_id, lost_adapter=lost)
        return await self._enter(target)

    async def _enter(self, target: Target) -> Begun:
        attempt = self._attempt(target)
        begun = await attempt.__aenter__()
        self._open = attempt
        return begun

    @asynccontextmanager
    async def _attempt(self, target: Target) -> AsyncIterator[Begun]:
        """One call to one target, from its placement to its end; its server's breaker hears how it began.

        It hears nothing of a call on the caller's own key: one tenant's spent quota is not the upstream's failure.
        """
        failover = self._failover
        health = _Nobody() if target.credential is not None else failover.health
        backend = failover.embedded if target.is_embedded else failover.backend
        async with failover.placement.place(target, self._affinity) as endpoint:
            self._sent(target)
            key = endpoint.replica or endpoint.upstream
            health.sent(key)
            begun: Begun | None = None
            try:
                async with backend.open(endpoint, self._call, self._request_id) as upstream:
                    begun = await begin(upstream, stream=self._call.stream, broke=partial(health.failed, key))
                    health.succeeded(key)
                    yield begun
            except UpstreamFailed as exc:
                if begun is None and not exc.model_missing:
                    health.failed(key, retry_after_seconds=exc.retry_after_seconds)
                raise

    def _may_retry(self, target: Target, exc: UpstreamFailed) -> bool:
        if exc.model_missing or (target.is_pool and exc.connection_lost):
            return True
        if isinstance(exc, UpstreamTimedOut) or exc.retry_after_seconds is not None:
            return False
        return (target.is_pool or exc.disconnected) and self._failover.retries.take()


def _breaker(target: Target) -> str:
    return target.upstream
