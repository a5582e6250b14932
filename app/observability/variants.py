"""What is counted for each variant of a route: requests, times, tokens, money. On the request path.

Children are resolved once for a variant and kept.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from app.types import CacheStatus, LedgerEntry, Outcome

# OpenTelemetry's GenAI semantic conventions: client.operation.duration and server.time_to_first_token
DURATION_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_BYTE_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


class Families:
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


class Arm:
    """The children of one variant of one route."""

    def __init__(self, families: Families, route: str, variant: str) -> None:
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

    def used(self, entry: LedgerEntry) -> None:
        """What an answer of the upstream's cost."""
        if entry.prompt_tokens:
            self.prompt.inc(entry.prompt_tokens)
        if entry.completion_tokens:
            self.completion.inc(entry.completion_tokens)
        if entry.cached_tokens:
            self.cached.inc(entry.cached_tokens)
        if entry.cost_microusd:
            self.cost.inc(entry.cost_microusd)
        if entry.estimated:
            self.estimated.inc()
