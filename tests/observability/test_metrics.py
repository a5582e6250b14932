"""What the metrics promise: bounded series, the right figures, and OpenMetrics with exemplars."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace as changed

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from app.cache.guard import GuardReason
from app.observability.metrics import Metrics
from app.observability.series import MAX_NAMES, Bounded
from app.observability.surveyed import Surveyed
from app.observability.training import HEARTBEATS, OUTCOMES, STAGES
from app.storage import outbox as webhooks
from app.storage.tuning import leases
from app.storage.tuning.status import OPEN, Status
from app.types import AccountKind, CacheStatus, Outcome
from tests.support.entries import entry
from tests.support.pools import SEEN

ADAPTER = "acme--support@0123456789ab"
ENTRY = entry(
    variant="main",
    upstream="vllm",
    model=ADAPTER,
    adapter_version=ADAPTER,
    completion_tokens=20,
    cached_tokens=4,
    cost_microusd=35,
    latency_ms=500,
    first_byte_ms=100,
)


def series(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every series of the exposition and its value."""
    body, _ = metrics.render()
    samples = (sample for family in parse_text(body.decode()) for sample in family.samples)
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """One series, or None when it is not there."""
    return series(metrics).get((name, frozenset(labels.items())))


def test_a_request_is_counted_with_what_it_used() -> None:
    """Requests, tokens by type, cost, duration and first byte of one entry all appear under its route and variant."""
    metrics = Metrics()
    metrics.finished(ENTRY, 0.5, 0.1)
    arm = {"route": "support", "variant": "main"}
    how = {"outcome": "ok", "status_class": "2xx", "cache": "miss"}
    assert value(metrics, "gateway_requests_total", **arm, **how) == 1
    assert value(metrics, "gateway_tokens_total", **arm, type="prompt") == 10
    assert value(metrics, "gateway_tokens_total", **arm, type="completion") == 20
    assert value(metrics, "gateway_tokens_total", **arm, type="cached") == 4
    assert value(metrics, "gateway_cost_microdollars_total", **arm) == 35
    assert value(metrics, "gateway_upstream_requests_total", upstream="vllm", outcome="ok") == 1
    assert value(metrics, "gateway_request_duration_seconds_bucket", **arm, cache="miss", le="0.32") == 0
    assert value(metrics, "gateway_request_duration_seconds_bucket", **arm, cache="miss", le="0.64") == 1
    assert value(metrics, "gateway_time_to_first_byte_seconds_bucket", **arm, cache="miss", le="0.1") == 1
    assert value(metrics, "gateway_time_to_first_byte_seconds_sum", **arm, cache="miss") == pytest.approx(0.1)


def test_a_hit_saves_and_does_not_blame_an_upstream() -> None:
    """An answer from the cache counts what it saved, no tokens, and no upstream request."""
    metrics = Metrics()
    hit = replace(ENTRY, outcome=Outcome.CACHE_EXACT, cache=CacheStatus.EXACT, cost_microusd=0, saved_microusd=35)
    metrics.finished(replace(hit, prompt_tokens=0, completion_tokens=0, cached_tokens=0), 0.002, 0.001)
    assert value(metrics, "gateway_saved_microdollars_total", route="support", variant="main") == 35
    assert value(metrics, "gateway_tokens_total", route="support", variant="main", type="prompt") == 0
    assert not [name for name, _ in series(metrics) if name == "gateway_upstream_requests_total"]


def test_an_estimated_usage_is_counted_as_such() -> None:
    """A request whose upstream did not count is seen, so that a silent upstream is found."""
    metrics = Metrics()
    metrics.finished(replace(ENTRY, estimated=True), 0.5, None)
    assert value(metrics, "gateway_usage_estimated_total", route="support", variant="main") == 1
    arm = {"route": "support", "variant": "main"}
    assert value(metrics, "gateway_time_to_first_byte_seconds_count", **arm, cache="miss") == 0


@pytest.mark.parametrize("cache", CacheStatus)
@pytest.mark.parametrize("outcome", Outcome)
def test_every_way_to_end_has_its_series(outcome: Outcome, cache: CacheStatus) -> None:
    """No outcome and no cache status is lost or merged."""
    metrics = Metrics()
    metrics.finished(replace(ENTRY, outcome=outcome, cache=cache, status=499), 0.5, None)
    labels = {"outcome": outcome.value, "cache": cache.value, "status_class": "4xx"}
    assert value(metrics, "gateway_requests_total", route="support", variant="main", **labels) == 1


def test_a_million_random_names_keep_the_number_of_series() -> None:
    """Whatever names are told a million times over, the number of series does not grow any more."""
    metrics = Metrics()
    tokens = [secrets.token_hex(8) for _ in range(1000)]

    def tell(rounds: int) -> None:
        for turn in range(rounds):
            for index, name in enumerate(tokens):
                other = f"{name}{turn}"
                kind = index % 10
                if kind == 0:
                    metrics.finished(replace(ENTRY, route=other, variant=name, upstream=other), 0.1, 0.1)
                elif kind < 4:
                    metrics.refused(other, name)
                elif kind == 4:
                    metrics.adapter(other, name, 0.1)
                elif kind < 7:
                    metrics.redis_failed(other)
                else:
                    metrics.guarded(other)

    tell(20)
    before = series(metrics).keys()
    tell(1000)
    assert series(metrics).keys() == before
    counted = value(metrics, "gateway_cache_guard_refusals_total", reason="other")
    assert counted is not None
    assert counted > 100_000


def test_random_statuses_are_bounded() -> None:
    """An upstream's strange status codes become their class, and each request leaves the in-flight gauge."""
    metrics = Metrics()
    for status in range(100, 1000):
        metrics.arrived()
        metrics.answered("chat", status)
    labels = {dict(labels)["status"] for name, labels in series(metrics) if name == "gateway_http_requests_total"}
    assert {"200", "429", "503", "2xx", "4xx", "5xx"} <= labels
    assert len(labels) <= 24
    assert value(metrics, "gateway_http_requests_in_flight") == 0


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=60))
def test_bounded_gives_one_thing_per_name_and_one_for_the_rest(names: list[tuple[str, str]]) -> None:
    """Up to the limit every combination has its own, later ones share one, and a kept one never changes."""
    made: Bounded[tuple[str, ...]] = Bounded(lambda *values: values, limit=5)
    first = {name: made(*name) for name in names}
    assert len({*first.values(), ("other", "other")}) <= 6
    assert all(made(*name) == kept for name, kept in first.items())
    assert all(kept in (name, ("other", "other")) for name, kept in first.items())


def test_labels_never_name_who_called() -> None:
    """No series holds a tenant, a key, a request or an adapter version."""
    metrics = Metrics()
    metrics.finished(replace(ENTRY, tenant_id="t-secret", key_id="k-secret", request_id="r-secret"), 0.1, 0.1)
    body, _ = metrics.render()
    for forbidden in (b"secret", b"acme", b"0123456789ab"):
        assert forbidden not in body


def test_enums_of_other_stages_fit() -> None:
    """Every account kind, guard reason and breaker state appears under its own value."""
    metrics = Metrics()
    for kind in AccountKind:
        metrics.refused(kind, "requests_per_minute")
        assert value(metrics, "gateway_refusals_total", account_kind=kind.value, limit="requests_per_minute") == 1
    for reason in GuardReason:
        metrics.guarded(reason)
        assert value(metrics, "gateway_cache_guard_refusals_total", reason=reason.value) == 1


def test_the_servers_of_every_pool_are_shown() -> None:
    """Who is well, where this gateway's calls are, what is held; a server that is gone has no series any more."""
    metrics, there = Metrics(), [SEEN]
    metrics.watch(pools=lambda: there)
    server = {"pool": "main", "replica": "http://a"}
    assert value(metrics, "gateway_pool_calls_waiting", pool="main") == 4
    assert value(metrics, "gateway_replica_up", **server) == 1
    assert value(metrics, "gateway_replica_restarts_total", **server) == 5
    calls = {state: value(metrics, "gateway_replica_calls", **server, state=state) for state in ("held", "loading")}
    assert calls == {"held": 3, "loading": 2}
    assert value(metrics, "gateway_replica_calls", **server, state="running") == 1
    held = {"registered": 3, "host": 2, "gpu": 1}
    assert {level: value(metrics, "gateway_replica_adapters", **server, level=level) for level in held} == held
    there[:] = [changed(SEEN, replicas=[changed(SEEN.replicas[0], healthy=False)])]
    assert value(metrics, "gateway_replica_up", **server) == 0
    there.clear()
    assert value(metrics, "gateway_replica_up", **server) is None


def test_many_servers_keep_the_number_of_series() -> None:
    """Addresses come from discovery: past the bound servers have no series, pools still have theirs."""
    metrics = Metrics()
    many = [changed(SEEN.replicas[0], url=f"http://{number}") for number in range(3 * MAX_NAMES)]
    metrics.watch(pools=lambda: [changed(SEEN, replicas=many)])
    assert sum(name == "gateway_replica_up" for name, _ in series(metrics)) == MAX_NAMES


def test_how_long_calls_wait_for_a_server_is_counted() -> None:
    """By pool, in seconds."""
    metrics = Metrics()
    metrics.placed("main", 0.2)
    metrics.placed("main", 3.0)
    assert value(metrics, "gateway_placement_wait_seconds_bucket", pool="main", le="0.25") == 1
    assert value(metrics, "gateway_placement_wait_seconds_sum", pool="main") == 3.2


def test_what_stands_now_is_asked_at_every_scrape() -> None:
    """Gauges follow their sources, and a source that was not named has no series."""
    metrics = Metrics()
    assert value(metrics, "gateway_policy_age_seconds") is None
    age = [1.5]
    metrics.watch(
        policy_age_seconds=lambda: age[0],
        ledger_backlog_entries=lambda: 7,
        breakers=lambda: {"openai": "open"},
    )
    assert value(metrics, "gateway_policy_age_seconds") == 1.5
    age[0] = 20.0
    assert value(metrics, "gateway_policy_age_seconds") == 20.0
    assert value(metrics, "gateway_ledger_backlog_entries") == 7
    assert value(metrics, "gateway_upstream_breaker_state", upstream="openai", state="open") == 1
    assert value(metrics, "gateway_upstream_breaker_state", upstream="openai", state="closed") == 0


def test_what_a_gateway_holds_is_asked_at_every_scrape() -> None:
    """Without a source there is no figure; then it is the one of the moment."""
    metrics = Metrics()
    assert value(metrics, "gateway_reservations_outstanding") is None
    held = [(3, 900), (1, 200)]
    metrics.watch(reservations_outstanding=lambda: held[0][0], reserved_microdollars=lambda: held[0][1])
    assert value(metrics, "gateway_reservations_outstanding") == 3
    held.pop(0)
    assert value(metrics, "gateway_reservations_outstanding") == 1
    assert value(metrics, "gateway_reserved_outstanding_microdollars") == 200


def test_what_alerts_look_at_begins_at_zero() -> None:
    """Failures and dropped spans have their series before the first one, so that the first one is a growth."""
    metrics = Metrics()
    assert value(metrics, "gateway_http_requests_total", operation="chat", status="503") == 0
    assert value(metrics, "gateway_spans_total", result="dropped") == 0
    assert value(metrics, "gateway_leases_lost_total") == 0


def test_many_breakers_are_cut() -> None:
    """More upstreams than the bound do not make more series."""
    metrics = Metrics()
    metrics.watch(breakers=lambda: {f"u{index}": "closed" for index in range(5 * MAX_NAMES)})
    found = [name for name, _ in series(metrics) if name == "gateway_upstream_breaker_state"]
    assert len(found) == 3 * MAX_NAMES


def test_adapters_and_the_rest_are_counted() -> None:
    """Loads are timed, unloads are not; lost leases, Redis errors and spans have their counters."""
    metrics = Metrics()
    metrics.adapter("vllm", "loaded", 0.2)
    metrics.adapter("vllm", "unloaded", 0.0)
    metrics.redis_failed("TimeoutError")
    metrics.lost(2)
    metrics.spans("dropped", 5)
    assert value(metrics, "gateway_adapter_operations_total", pool="vllm", outcome="loaded") == 1
    assert value(metrics, "gateway_adapter_operations_total", pool="vllm", outcome="unloaded") == 1
    assert value(metrics, "gateway_adapter_load_duration_seconds_count", pool="vllm", outcome="loaded") == 1
    assert value(metrics, "gateway_adapter_load_duration_seconds_count", pool="vllm", outcome="unloaded") is None
    assert value(metrics, "gateway_redis_errors_total", error="TimeoutError") == 1
    assert value(metrics, "gateway_leases_lost_total") == 2
    assert value(metrics, "gateway_spans_total", result="dropped") == 5


def test_openmetrics_carries_the_trace_as_an_exemplar() -> None:
    """Asked for OpenMetrics, the duration names the sampled trace; the plain text format has none and no _created."""
    metrics = Metrics(trace_id=lambda: "0af7651916cd43dd8448eb211c80319c")
    metrics.finished(ENTRY, 0.5, 0.1)
    body, content_type = metrics.render("application/openmetrics-text; version=1.0.0, text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text")
    found = [
        sample.exemplar.labels
        for family in parse_openmetrics(body.decode())  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar
    ]
    assert found == [{"trace_id": "0af7651916cd43dd8448eb211c80319c"}] * 2
    plain, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    assert b"0af7651916cd43dd8448eb211c80319c" not in plain
    assert b"_created" not in plain + body


def test_two_gateways_in_one_process_do_not_mix() -> None:
    """A registry belongs to its Metrics object."""
    one, two = Metrics(), Metrics()
    one.finished(ENTRY, 0.5, 0.1)
    assert "gateway_requests_total" in {name for name, _ in series(one)}
    assert "gateway_requests_total" not in {name for name, _ in series(two)}


async def test_a_scrape_says_the_same_and_leaves_the_loop_free() -> None:
    """The text is made in a thread: while a large registry is rendered, the event loop goes on turning."""
    metrics = Metrics()
    for index in range(MAX_NAMES):
        for cache in CacheStatus:
            metrics.finished(replace(ENTRY, route=f"route-{index}", cache=cache), 0.5, 0.1)
    turns = 0
    scrape = asyncio.create_task(metrics.scrape())
    while not scrape.done():
        await asyncio.sleep(0)
        turns += 1
    body, content_type = await scrape
    assert (body.count(b"gateway_requests_total{"), content_type) == (len(CacheStatus) * MAX_NAMES, metrics.render()[1])
    assert turns > 10


def test_webhooks_and_comparisons_are_counted() -> None:
    """Every outcome of an attempt has its series from the start; comparisons are counted by route."""
    metrics = Metrics()
    for outcome in webhooks.Outcome:
        assert value(metrics, "gateway_webhook_attempts_total", outcome=outcome.value) == 0
        metrics.webhook(outcome)
        assert value(metrics, "gateway_webhook_attempts_total", outcome=outcome.value) == 1
    for agreed in (True, True, False):
        metrics.compared("support", agreed)
    assert value(metrics, "gateway_cache_comparisons_total", route="support", result="agreed") == 2
    assert value(metrics, "gateway_cache_comparisons_total", route="support", result="differed") == 1


def test_what_trainers_do_begins_at_zero() -> None:
    """Each stage, answer and outcome is there before the first one; a stage that no trainer tells of is not timed."""
    metrics = Metrics()
    for stage in STAGES:
        assert value(metrics, "gateway_training_stage_duration_seconds_count", stage=stage) == 0
    for answer in HEARTBEATS:
        assert value(metrics, "gateway_training_heartbeats_total", answer=answer) == 0
    for outcome in OUTCOMES:
        assert value(metrics, "gateway_training_jobs_ended_total", outcome=outcome, reason="") == 0
    metrics.training.left(leases.CLAIMED, 5.0)
    assert not [dict(labels) for _, labels in series(metrics) if ("stage", leases.CLAIMED) in labels]
    assert {leases.CONTINUE, leases.PAUSE, leases.CANCEL} < set(HEARTBEATS)
    assert {status.value for status in Status} - set(OPEN) == set(OUTCOMES)


def test_what_waits_in_the_stores_is_as_last_seen() -> None:
    """Jobs by state, waits, promises by route and standing; many routes are cut, and their rest is one."""
    metrics = Metrics()
    seen = Surveyed(
        jobs={"queued": 2, "running": 1},
        oldest_queued_seconds=9.5,
        deliveries=3,
        deliveries_late_seconds=0.0,
        promises={(f"route-{number:04}", "kept"): 2 for number in range(MAX_NAMES + 30)},
    )
    metrics.watch(surveyed=lambda: seen)
    assert value(metrics, "gateway_training_jobs", state="queued") == 2
    assert value(metrics, "gateway_training_oldest_queued_seconds") == 9.5
    assert value(metrics, "gateway_webhook_deliveries_waiting") == 3
    assert value(metrics, "gateway_webhook_deliveries_late_seconds") == 0
    assert value(metrics, "gateway_cache_promises", route="route-0000", standing="kept") == 2
    assert value(metrics, "gateway_cache_promises", route="other", standing="kept") == 60
    assert len([name for name, _ in series(metrics) if name == "gateway_cache_promises"]) == MAX_NAMES + 1
    seen = Surveyed()
    assert not [
        name for name, _ in series(metrics) if name.startswith(("gateway_cache_promises", "gateway_webhook_del"))
    ]
