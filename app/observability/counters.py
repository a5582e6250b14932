"""What is counted besides the variants of routes: refusals, upstreams, adapters, the stores, the cache."""

from __future__ import annotations

import platform
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app.observability.series import Bounded
from app.types import Operation

STATUSES = frozenset({200, 400, 401, 403, 404, 405, 409, 413, 422, 429, 499, 500, 502, 503, 504})
WEBHOOK_OUTCOMES = ("delivered", "failed", "given_up", "switched_off")
LOAD_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
WAIT_SECONDS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Counters:
    """Each attribute resolves a child from its label values."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, says: str, *labels: str) -> Bounded[Counter]:
            return Bounded(Counter(f"gateway_{name}_total", says, labels, registry=registry).labels)

        self.http = counter("http_requests", "Inference requests by the status they got.", "operation", "status")
        self.upstream = counter("upstream_requests", "Requests not answered by the cache.", "upstream", "outcome")
        self.refusals = counter("refusals", "Requests turned away by a limit or a budget.", "account_kind", "limit")
        self.fail_policy = counter(
            "fail_policy", "What parts did while something they need was away.", "part", "away", "decision"
        )
        self.budget_events = counter("budget_events", "Budgets reached, breakers opened and closed.", "event", "limit")
        self.guarded = counter("cache_guard_refusals", "Near answers that the content guard held back.", "reason")
        self.compared = counter("cache_comparisons", "Semantic hits compared with the upstream.", "route", "result")
        self.webhooks = counter("webhook_attempts", "Webhook deliveries that were tried.", "outcome")
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
        waits = Histogram(
            "gateway_placement_wait_seconds",
            "From a call's asking for a server to its sending: room, a slot, its adapter's load.",
            ("pool",),
            registry=registry,
            buckets=WAIT_SECONDS,
        )
        self.waits: Bounded[Histogram] = Bounded(waits.labels)
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
        for outcome in WEBHOOK_OUTCOMES:
            self.webhooks(outcome)
