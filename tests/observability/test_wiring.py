"""A real gateway process shows what this package promises: metrics on their port, log lines, traces."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from msgspec.structs import replace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

from app.recording.flusher import Flusher
from app.storage.ledger import encode, stream_key
from app.storage.redis import RedisStore
from app.types import LedgerEntry, Outcome
from tests.observability.test_metrics import ENTRY
from tests.support.gateway import Gateway, gateway

KEY = "tg-" + "x" * 43
WATCHED = {
    "gateway_policy_age_seconds",
    "gateway_ledger_backlog_entries",
    "gateway_http_requests_in_flight",
    "gateway_build_info",
    "process_cpu_seconds_total",
}
SURVEYED = {
    "gateway_training_jobs",
    "gateway_training_oldest_queued_seconds",
    "gateway_webhook_deliveries_waiting",
    "gateway_webhook_deliveries_late_seconds",
}
SWEPT = {"gateway_reservations_outstanding", "gateway_reserved_outstanding_microdollars"}


@pytest.fixture(scope="module")
def spans() -> Iterator[tuple[str, list[Span]]]:
    """The address of a trace collector, and what it got."""
    got: list[Span] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """One export."""
            body = self.rfile.read(int(self.headers["content-length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                got.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature is the library's
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", got
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, spans: tuple[str, list[Span]]) -> Iterator[Gateway]:
    """A gateway on embedded stores, without an upstream, traced where a caller asks for it."""
    telemetry = {"otlp_endpoint": spans[0], "trace_sample_ratio": 0.0}
    with gateway(tmp_path_factory.mktemp("gateway"), {"cache": {"semantic": False}, "telemetry": telemetry}) as made:
        yield made


def scraped(running: Gateway) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """Every series by name and labels."""
    with urllib.request.urlopen(f"{running.metrics_url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def test_every_gauge_has_a_source(running: Gateway) -> None:
    """The policy is young, nothing waits, and after a first look what is held and what waits in the stores is known."""
    deadline = time.monotonic() + 30
    names = scraped(running)
    while not names.keys() >= SWEPT | SURVEYED and time.monotonic() < deadline:
        time.sleep(0.1)
        names = scraped(running)
    assert names.keys() >= WATCHED | SWEPT | SURVEYED
    assert names["gateway_ledger_backlog_entries"] == {frozenset(): 0}
    assert names["gateway_reservations_outstanding"] == {frozenset(): 0}
    assert 0 <= names["gateway_policy_age_seconds"][frozenset()] < 60


def test_a_refused_stranger_is_counted(running: Gateway) -> None:
    """A call without a known key is a 401 in the metrics, and leaves nothing in flight."""
    labels = frozenset({("operation", "chat"), ("status", "401")})
    before = scraped(running)["gateway_http_requests_total"][labels]
    answer = httpx2.post(f"{running.url}/v1/chat/completions", json={}, headers={"authorization": f"Bearer {KEY}"})
    assert answer.status_code == 401
    after = scraped(running)
    assert after["gateway_http_requests_total"][labels] == before + 1
    assert after["gateway_http_requests_in_flight"] == {frozenset(): 0}


def test_a_traced_caller_finds_the_request_in_its_trace(running: Gateway, spans: tuple[str, list[Span]]) -> None:
    """The gateway's span is a child of the caller's, with the status and the request id that the caller got."""
    trace_id, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    answer = httpx2.post(
        f"{running.url}/v1/completions", json={}, headers={"traceparent": f"00-{trace_id}-{parent}-01"}
    )
    deadline = time.monotonic() + 30
    while not spans[1] and time.monotonic() < deadline:
        time.sleep(0.05)
    (span,) = spans[1]
    told = {item.key: item.value for item in span.attributes}
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (trace_id, parent)
    assert span.name == "POST /v1/completions"
    assert told["http.response.status_code"].int_value == answer.status_code == 401
    assert told["tunegate.request.id"].string_value == answer.headers["x-request-id"]
    assert scraped(running)["gateway_spans_total"][frozenset({("result", "dropped")})] == 0


def test_openmetrics_is_given_to_those_who_ask(running: Gateway) -> None:
    """As Prometheus asks for it."""
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    answer = httpx2.get(f"{running.metrics_url}/metrics", headers={"accept": accept})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_metrics_are_not_on_the_public_port(running: Gateway) -> None:
    """The API's port knows no /metrics."""
    assert httpx2.get(f"{running.url}/metrics").status_code == 404


def test_every_line_of_the_log_is_json_without_the_key(running: Gateway) -> None:
    """Ours and the libraries' lines parse, and the key that was sent is in none."""
    text = running.log.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines
    assert all({"timestamp", "level", "event"} <= line.keys() for line in lines)
    assert KEY not in text


async def test_the_flusher_says_what_waits_and_what_was_lost(redis_url: str) -> None:
    """While SQL is away the backlog is counted; once it is back nothing waits, and lost leases are told once."""
    lost: list[int] = []
    away = True

    async def write(_entries: object) -> None:
        if away:
            raise ConnectionError("SQL is away")

    async with RedisStore.connect(redis_url, operation_timeout_seconds=5) as store:
        flusher = Flusher(store, write, lambda: ["acme"], on_lost=lost.append)
        entries: list[LedgerEntry] = [replace(ENTRY, request_id=f"r{index}") for index in range(3)]
        for entry in [*entries, replace(ENTRY, request_id="lost", outcome=Outcome.LOST)]:
            await store.command("XADD", stream_key("acme"), "*", "e", encode(entry))
        with pytest.raises(ConnectionError, match="away"):
            await flusher.flush_once()
        await flusher._count_backlog()
        assert (flusher.backlog_entries, lost) == (4, [])
        away = False
        assert await flusher.flush_once() == 4
        assert (flusher.backlog_entries, sum(lost)) == (0, 1)


def test_nothing_is_written_beside_the_data_folder(running: Gateway) -> None:
    """A read-only root file system is enough: the gateway's working folder stays as it was."""
    assert {path.suffix for path in Path(running.log).parent.iterdir() if path.is_file()} <= {".yaml", ".log"}
