"""The gateway's metrics: what happens is told here, and declared in the modules beside this one and nowhere else.

`docs/operations.md` says what to do about them. Labels come from closed enums and from configured names. Names are
bounded all the same: after `MAX_NAMES` distinct combinations of one kind, the rest is counted under `other`, so no
caller and no misconfiguration can grow the number of series. Never a label: a key, a user, a tenant, anything from a
request's body. A registry belongs to one `Metrics` object; nothing is global.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from app.observability.correlation import current_trace_id
from app.observability.counters import STATUSES, Counters
from app.observability.series import Bounded, Lean
from app.observability.surveyed import Surveyed
from app.observability.training import TrainingMetrics
from app.observability.variants import Arm, Families
from app.observability.watched import Watched
from app.types import CacheStatus, LedgerEntry, PoolStatus

OWN = frozenset({CacheStatus.MISS, CacheStatus.BYPASS})  # answered by an upstream, or not at all


class Metrics:
    """Counts what happens; `render` says it to Prometheus.

    `trace_id` names the sampled trace of the running request, for exemplars; None when there is none.
    """

    def __init__(self, *, trace_id: Callable[[], str | None] = current_trace_id) -> None:
        self._registry = registry = CollectorRegistry(auto_describe=False)
        self._trace_id = trace_id
        self._watched = Watched()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        families = Families(registry)
        self._arms: Bounded[Arm] = Bounded(lambda route, variant: Arm(families, route, variant))
        self._count = Counters(registry)
        self.training = TrainingMetrics(registry)
        self._in_flight = 0
        self._watched.value(
            "gateway_http_requests_in_flight", "Inference requests that are being served.", lambda: self._in_flight
        )

    def arrived(self) -> None:
        """An inference request is here."""
        self._in_flight += 1

    def answered(self, operation: str, status: int) -> None:
        """It has its status, or its client has gone (499); once for every `arrived`."""
        self._in_flight -= 1
        code = str(status) if status in STATUSES else f"{status // 100}xx"
        self._count.http(operation, code).inc()

    def finished(self, entry: LedgerEntry, latency_seconds: float, first_byte_seconds: float | None) -> None:
        """An admitted request has ended; called once for each, on the request path."""
        arm = self._arms(entry.route, entry.variant)
        arm.requests(entry.outcome, entry.status // 100, entry.cache).inc()
        trace_id = self._trace_id()
        exemplar = None if trace_id is None else {"trace_id": trace_id}
        duration, first_byte = arm.times(entry.cache)
        duration.observe(latency_seconds, exemplar)
        if first_byte_seconds is not None:
            first_byte.observe(first_byte_seconds, exemplar)
        if entry.saved_microusd:
            arm.saved.inc(entry.saved_microusd)
        if entry.cache not in OWN:
            return
        self._count.upstream(entry.upstream, entry.outcome).inc()
        arm.used(entry)

    def refused(self, account_kind: str, limit: str) -> None:
        """A limit or budget of this kind of account turned a request away."""
        self._count.refusals(account_kind, limit).inc()

    def guarded(self, reason: str) -> None:
        """The semantic cache held back an answer that was near enough, for this reason."""
        self._count.guarded(reason).inc()

    def compared(self, route: str, agreed: bool) -> None:
        """A semantic hit went upstream instead, to be compared with what would have been served."""
        self._count.compared(route, "agreed" if agreed else "differed").inc()

    def webhook(self, outcome: str) -> None:
        """A delivery was `delivered`, `failed` and will be tried again, `given_up`, or its endpoint `switched_off`."""
        self._count.webhooks(outcome).inc()

    def adapter(self, pool: str, outcome: str, seconds: float) -> None:
        """An adapter was `loaded` or `unloaded`, or could not be loaded (`failed`)."""
        self._count.adapters(pool, outcome).inc()
        if outcome != "unloaded":
            self._count.loads(pool, outcome).observe(seconds)

    def placed(self, pool: str, seconds: float) -> None:
        """A call has waited so long for a server of this pool with its adapter."""
        self._count.waits(pool).observe(seconds)

    def redis_failed(self, error: str) -> None:
        """A Redis operation failed, with this class of error."""
        self._count.redis(error).inc()

    def lost(self, leases: int) -> None:
        """So many reservations ran out without a settlement, and were charged at their estimate."""
        self._count.lost.inc(leases)

    def spans(self, result: str, count: int) -> None:
        """So many trace spans were `exported`, or `dropped` because the collector did not take them."""
        self._count.spans(result).inc(count)
        if result == "dropped":
            self._count.fail_policy("telemetry", "collector", result).inc(count)

    def fell_back(self, part: str, decision: str, away: str = "redis") -> None:
        """A part did without something it needs; the table in `docs/operations.md` has all of these."""
        self._count.fail_policy(part, away, decision).inc()

    def budget_event(self, event: str, limit: str) -> None:
        """A budget was reached in part or whole, or a cost breaker has changed its state."""
        self._count.budget_events(event, limit).inc()

    def watch(
        self,
        *,
        policy_age_seconds: Callable[[], float] | None = None,
        ledger_backlog_entries: Callable[[], float] | None = None,
        reservations_outstanding: Callable[[], float] | None = None,
        reserved_microdollars: Callable[[], float] | None = None,
        breakers: Callable[[], Mapping[str, str]] | None = None,
        surveyed: Callable[[], Surveyed] | None = None,
        pools: Callable[[], Sequence[PoolStatus]] | None = None,
    ) -> None:
        """Name who knows what stands now; asked at every scrape, so it must not wait."""
        for name, says, source in (
            ("gateway_policy_age_seconds", "Since keys and routes were last read from SQL.", policy_age_seconds),
            ("gateway_ledger_backlog_entries", "Ledger entries not yet in SQL.", ledger_backlog_entries),
            ("gateway_reservations_outstanding", "Reservations here, not yet settled.", reservations_outstanding),
            ("gateway_reserved_outstanding_microdollars", "What they hold, in 1e-6 USD.", reserved_microdollars),
        ):
            if source is not None:
                self._watched.value(name, says, source)
        if breakers is not None:
            self._watched.breakers(breakers)
        if surveyed is not None:
            self._watched.surveyed(surveyed)
        if pools is not None:
            self._watched.pools(pools)

    def render(self, accept: str | None = None) -> tuple[bytes, str]:
        """The exposition and its content type: OpenMetrics with exemplars if the Accept header asks for it."""
        return self._encoded(self._watched.ask(), accept)

    async def scrape(self, accept: str | None = None) -> tuple[bytes, str]:
        """As `render`, without holding up the requests: sources are asked here, the text is made in a thread."""
        return await asyncio.to_thread(self._encoded, self._watched.ask(), accept)

    def _encoded(self, watched: list[Metric], accept: str | None) -> tuple[bytes, str]:
        encode, content_type = choose_encoder(accept or "")
        return encode(Lean(watched, self._registry)), content_type
