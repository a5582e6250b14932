"""Every metric of the gateway, declared here and nowhere else; `docs/operations.md` says what to do about them.

Labels come from closed enums and from configured names. Names are bounded all the same: after `MAX_NAMES` distinct
combinations of one kind, the rest is counted under `other`, so no caller and no misconfiguration can grow the number of
series. Never a label: a key, a user, a tenant, anything from a request's body. Children are resolved once and kept,
for `finished` runs on the request path. A registry belongs to one `Metrics` object; nothing is global.

Fail mode: a value that has no source (`watch` was not told) has no series, rather than a zero that looks well.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from app.observability.correlation import current_trace_id
from app.observability.series import MAX_NAMES, Bounded, Lean
from app.types import CacheStatus, LedgerEntry, Operation, Outcome

OWN = frozenset({CacheStatus.MISS, CacheStatus.BYPASS})  # answered by an upstream, or not at all
BREAKER_STATES = ("closed", "open", "half_open")
STATUSES = frozenset({200, 400, 401, 403, 404, 405, 409, 413, 422, 429, 499, 500, 502, 503, 504})
# OpenTelemetry's GenAI semantic conventions: client.operation.duration and server.time_to_first_token
DURATION_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_BYTE_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
LOAD_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Watched:
    """Gauges whose value is asked for at the time of a scrape; those without a source are left out."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], Callable[[], float]] = {}
        self._breakers: Callable[[], Mapping[str, str]] | None = None

    def value(self, name: str, says: str, source: Callable[[], float]) -> None:
        """Ask this source for the gauge of that name."""
        self._values[name, says] = source

    def breakers(self, source: Callable[[], Mapping[str, str]]) -> None:
        """Ask this source for the state of each upstream's breaker."""
        self._breakers = source

    def ask(self) -> list[Metric]:
        """Ask every source once."""
        asked: list[Metric] = [GaugeMetricFamily(name, says, source()) for (name, says), source in self._values.items()]
        return asked if self._breakers is None else [*asked, self._states(self._breakers())]

    @staticmethod
    def _states(states: Mapping[str, str]) -> Metric:
        family = GaugeMetricFamily(
            "gateway_upstream_breaker_state", "1 for the state that the breaker is in.", labels=("upstream", "state")
        )
        for upstream in sorted(states)[:MAX_NAMES]:
            for state in BREAKER_STATES:
                family.add_metric((upstream, state), float(states[upstream] == state))
        return family


class _Arm:
    """The children of one variant of one route."""

    def __init__(self, families: _Families, route: str, variant: str) -> None:
        self._families = families
        self._names = (route, variant)
        self._requests: dict[tuple[Outcome, int, CacheStatus], Counter] = {}
        self._times: dict[CacheStatus, tuple[Histogram, Histogram]] = {}
        tokens = families.tokens
        self.prompt, self.completion, self.cached = (
            tokens.labels(route, variant, kind) for kind in ("prompt", "completion", "cached")
        )
        self.cost = families.cost.labels(route, variant)
        self.saved = families.saved.labels(route, variant)
        self.estimated = families.estimated.labels(route, variant)

    def requests(self, outcome: Outcome, status_class: int, cache: CacheStatus) -> Counter:
        """The counter of requests that ended this way."""
        key = (outcome, status_class, cache)
        child = self._requests.get(key)
        if child is None:
            labels = (outcome.value, f"{status_class}xx", cache.value)
            child = self._requests[key] = self._families.requests.labels(*self._names, *labels)
        return child

    def times(self, cache: CacheStatus) -> tuple[Histogram, Histogram]:
        """Duration and time to first byte."""
        pair = self._times.get(cache)
        if pair is None:
            labels = (*self._names, cache.value)
            pair = (self._families.duration.labels(*labels), self._families.first_byte.labels(*labels))
            self._times[cache] = pair
        return pair


class _Families:
    """What is counted per variant of a route."""

    def __init__(self, registry: CollectorRegistry) -> None:
        arm = ("route", "variant")
        self.requests = Counter(
            "gateway_requests_total",
            "Admitted requests by how they ended.",
            (*arm, "outcome", "status_class", "cache"),
            registry=registry,
        )
        self.duration = Histogram(
            "gateway_request_duration_seconds",
            "From the request's admission to the end of its answer.",
            (*arm, "cache"),
            registry=registry,
            buckets=DURATION_SECONDS,
        )
        self.first_byte = Histogram(
            "gateway_time_to_first_byte_seconds",
            "From the request's admission to the first byte of its answer.",
            (*arm, "cache"),
            registry=registry,
            buckets=FIRST_BYTE_SECONDS,
        )
        self.tokens = Counter(
            "gateway_tokens_total",
            "Tokens used; `cached` are those of `prompt` that the upstream had in its prefix cache.",
            (*arm, "type"),
            registry=registry,
        )
        self.cost = Counter("gateway_cost_microdollars_total", "Charged, in 1e-6 USD.", arm, registry=registry)
        self.saved = Counter(
            "gateway_saved_microdollars_total", "Not spent thanks to the cache, in 1e-6 USD.", arm, registry=registry
        )
        self.estimated = Counter(
            "gateway_usage_estimated_total", "Requests whose upstream did not say what it used.", arm, registry=registry
        )


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
        families = _Families(registry)
        self._arms: Bounded[_Arm] = Bounded(lambda route, variant: _Arm(families, route, variant))
        self._count = _Counters(registry)
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
        _used(arm, entry)

    def refused(self, account_kind: str, limit: str) -> None:
        """A limit or budget of this kind of account turned a request away."""
        self._count.refusals(account_kind, limit).inc()

    def guarded(self, reason: str) -> None:
        """The semantic cache held back an answer that was near enough, for this reason."""
        self._count.guarded(reason).inc()

    def compared(self, agreed: bool) -> None:
        """A semantic hit went upstream instead, to be compared with what would have been served."""
        self._count.compared("agreed" if agreed else "differed").inc()

    def adapter(self, pool: str, outcome: str, seconds: float) -> None:
        """An adapter was `loaded` or `unloaded`, or could not be loaded (`failed`)."""
        self._count.adapters(pool, outcome).inc()
        if outcome != "unloaded":
            self._count.loads(pool, outcome).observe(seconds)

    def redis_failed(self, error: str) -> None:
        """A Redis operation failed, with this class of error."""
        self._count.redis(error).inc()

    def lost(self, leases: int) -> None:
        """So many reservations ran out without a settlement, and were charged at their estimate."""
        self._count.lost.inc(leases)

    def spans(self, result: str, count: int) -> None:
        """So many trace spans were `exported`, or `dropped` because the collector did not take them."""
        self._count.spans(result).inc(count)

    def decided_without_redis(self, decision: str) -> None:
        """While Redis was away a call was `admitted` by this gateway's own share, or `refused`."""
        self._count.outages(decision).inc()

    def budget_event(self, event: str, limit: str) -> None:
        """A budget was reached in part or whole, or a cost breaker has changed its state."""
        self._count.budget_events(event, limit).inc()

    def outstanding(self, reservations: int, microdollars: int) -> None:
        """All gateways together hold so many reservations, and so much money by them; told at every sweep."""
        held = "Reservations not yet settled, in all gateways together, at the last sweep."
        self._watched.value("gateway_reservations_outstanding", held, lambda: reservations)
        held = "What unsettled reservations hold, in 1e-6 USD, at the last sweep."
        self._watched.value("gateway_reserved_outstanding_microdollars", held, lambda: microdollars)

    def watch(
        self,
        *,
        policy_age_seconds: Callable[[], float] | None = None,
        ledger_backlog_entries: Callable[[], float] | None = None,
        breakers: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        """Name who knows what stands now; asked at every scrape, so it must not wait."""
        for name, says, source in (
            ("gateway_policy_age_seconds", "Since keys and routes were last read from SQL.", policy_age_seconds),
            ("gateway_ledger_backlog_entries", "Ledger entries not yet in SQL.", ledger_backlog_entries),
        ):
            if source is not None:
                self._watched.value(name, says, source)
        if breakers is not None:
            self._watched.breakers(breakers)

    def render(self, accept: str | None = None) -> tuple[bytes, str]:
        """The exposition and its content type: OpenMetrics with exemplars if the Accept header asks for it."""
        return self._encoded(self._watched.ask(), accept)

    async def scrape(self, accept: str | None = None) -> tuple[bytes, str]:
        """As `render`, without holding up the requests: sources are asked here, the text is made in a thread."""
        return await asyncio.to_thread(self._encoded, self._watched.ask(), accept)

    def _encoded(self, watched: list[Metric], accept: str | None) -> tuple[bytes, str]:
        encode, content_type = choose_encoder(accept or "")
        return encode(Lean(watched, self._registry)), content_type


class _Counters:
    """What is counted besides the variants of routes; each attribute resolves a child from its label values."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, says: str, *labels: str) -> Bounded[Counter]:
            return Bounded(Counter(f"gateway_{name}_total", says, labels, registry=registry).labels)

        self.http = counter("http_requests", "Inference requests by the status they got.", "operation", "status")
        self.upstream = counter("upstream_requests", "Requests not answered by the cache.", "upstream", "outcome")
        self.refusals = counter("refusals", "Requests turned away by a limit or a budget.", "account_kind", "limit")
        self.outages = counter("admissions_without_redis", "Calls decided while Redis was away.", "decision")
        self.budget_events = counter("budget_events", "Budgets reached, breakers opened and closed.", "event", "limit")
        self.guarded = counter("cache_guard_refusals", "Near answers that the content guard held back.", "reason")
        self.compared = counter("cache_comparisons", "Semantic hits compared with the upstream.", "result")
        self.adapters = counter("adapter_operations", "Adapters loaded, unloaded, failed.", "pool", "outcome")
        self.redis = counter("redis_errors", "Failed Redis operations by class of error.", "error")
        self.spans = counter("spans", "Trace spans by what became of them.", "result")
        self.lost = Counter("gateway_leases_lost_total", "Reservations charged unsettled.", registry=registry)
        loads = Histogram(
            "gateway_adapter_load_duration_seconds",
            "From the turn at the replica to the replica's word.",
            ("pool", "outcome"),
            registry=registry,
            buckets=LOAD_SECONDS,
        )
        self.loads: Bounded[Histogram] = Bounded(loads.labels)
        self._begin_at_zero()
        build = Gauge("gateway_build_info", "Always 1; what runs here.", ("version", "python"), registry=registry)
        build.labels(version("tunegate"), platform.python_version()).set(1)

    def _begin_at_zero(self) -> None:
        """Have the series that alerts look at from the start: a counter that appears at 1 never seems to have grown."""
        for operation in (Operation.CHAT, Operation.COMPLETIONS, Operation.EMBEDDINGS):
            for status in STATUSES:
                self.http(operation.value, str(status))
        for result in ("ended", "exported", "dropped"):
            self.spans(result)


def _used(arm: _Arm, entry: LedgerEntry) -> None:
    if entry.prompt_tokens:
        arm.prompt.inc(entry.prompt_tokens)
    if entry.completion_tokens:
        arm.completion.inc(entry.completion_tokens)
    if entry.cached_tokens:
        arm.cached.inc(entry.cached_tokens)
    if entry.cost_microusd:
        arm.cost.inc(entry.cost_microusd)
    if entry.estimated:
        arm.estimated.inc()
