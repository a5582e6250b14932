"""OpenTelemetry traces over OTLP/HTTP: off unless an address is set, and then every hook gives back what it was given.

On, a caller's `traceparent` is continued with its own sampling decision and others are sampled by ratio. Names follow
the semantic conventions for HTTP and GenAI. Content is never recorded, nor is the message of an exception, for it may
quote content.

Fail mode: dropped. Spans wait in a bounded queue that a thread empties; a collector that is away or slow costs spans,
never a request. Every span that ended is counted once more, as exported or as dropped, those that the full queue has
pushed out too.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Tracer
from starlette.types import ASGIApp

from app.observability.spans import Opens, TracedBackend, TracedEndpoint, current
from app.types import LedgerEntry

EXPORT_TIMEOUT_SECONDS = 5.0
SHUTDOWN_SECONDS = 3.0
QUEUE_SPANS = 2048
BATCH_SPANS = 256
BATCH_DELAY_MS = 1000

U = TypeVar("U")
Finished = Callable[[LedgerEntry, float, float | None], None]
Count = Callable[[str, int], None]


class NoTracing:
    """Tracing that is off: every hook gives back what it was given."""

    def endpoint(self, app: ASGIApp, _route: str) -> ASGIApp:
        """The endpoint itself."""
        return app

    def backend(self, backend: Opens[U]) -> Opens[U]:
        """The backend itself."""
        return backend

    def finished(self, finished: Finished) -> Finished:
        """The callback itself."""
        return finished


class Tracing:
    """Tracing that is on: its hooks wrap what a request passes."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def endpoint(self, app: ASGIApp, route: str) -> ASGIApp:
        """The endpoint, with a SERVER span around each request."""
        return TracedEndpoint(self._tracer, app, route)

    def backend(self, backend: Opens[U]) -> Opens[U]:
        """The backend, with a CLIENT span around each call, whose `traceparent` goes upstream."""
        return TracedBackend(self._tracer, backend)

    def finished(self, finished: Finished) -> Finished:
        """The callback, which then also tells the request's spans what it used and how it ended."""

        def told(entry: LedgerEntry, latency_seconds: float, first_byte_seconds: float | None) -> None:
            finished(entry, latency_seconds, first_byte_seconds)
            spans = current()
            if spans is not None:
                spans.finished(entry, latency_seconds, first_byte_seconds)

        return told


@asynccontextmanager
async def tracing(
    otlp_endpoint: str | None,
    sample_ratio: float,
    *,
    max_queued_spans: int = QUEUE_SPANS,
    count: Count = lambda _result, _spans: None,
) -> AsyncIterator[Tracing | NoTracing]:
    """Open tracing to this address, or tracing that is off; leaving sends what waits, within a few seconds.

    At most `max_queued_spans` wait for the collector, the oldest of more are dropped. `count` is told how many spans
    `ended`, and what became of them: `exported` or `dropped`; from other threads too.
    """
    if otlp_endpoint is None:
        yield NoTracing()
        return
    exporter = OTLPSpanExporter(traces_url(otlp_endpoint), timeout=EXPORT_TIMEOUT_SECONDS)
    provider = _provider(sample_ratio, exporter, max_queued_spans, count)
    try:
        yield Tracing(provider.get_tracer("tunegate"))
    finally:
        await _shut(provider, exporter)


def traces_url(endpoint: str) -> str:
    """The address that spans are posted to: as given, or with OTLP's own path where none was given."""
    parts = urlsplit(endpoint)
    return endpoint if parts.path.strip("/") else urlunsplit(parts._replace(path="/v1/traces"))


def _provider(sample_ratio: float, exporter: SpanExporter, max_queued: int, count: Count) -> TracerProvider:
    queue = _Queue(max_queued, count)
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
        resource=Resource.create({"service.name": "tunegate", "service.version": version("tunegate")}),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(queue)
    provider.add_span_processor(
        BatchSpanProcessor(
            _Counted(exporter, queue, count),
            max_queue_size=max_queued,
            max_export_batch_size=min(BATCH_SPANS, max_queued),
            schedule_delay_millis=BATCH_DELAY_MS,
        )
    )
    return provider


async def _shut(provider: TracerProvider, exporter: SpanExporter) -> None:
    """Send what waits; a collector that does not take it in time loses it."""
    closing = asyncio.create_task(asyncio.to_thread(provider.shutdown))
    _, late = await asyncio.wait({closing}, timeout=SHUTDOWN_SECONDS)
    if late:
        exporter.shutdown()  # ends its wait for another try; the rest of the queue is then dropped
    await closing


class _Queue(SpanProcessor):
    """Counts spans as they end, and those that the library's full queue pushes out for them without a word."""

    def __init__(self, most: int, count: Count) -> None:
        self._most = most
        self._count = count
        self._queued = 0
        self._lock = threading.Lock()  # spans end in the event loop's thread, batches leave in the library's

    def on_end(self, span: ReadableSpan) -> None:  # noqa: ARG002 - the signature is the library's
        """One more."""
        with self._lock:
            is_full = self._queued >= self._most
            self._queued += not is_full
        self._count("ended", 1)
        if is_full:
            self._count("dropped", 1)

    def left(self, spans: int) -> None:
        """A batch has left the queue for the collector."""
        with self._lock:
            self._queued = max(0, self._queued - spans)


class _Counted(SpanExporter):
    """An exporter that counts what it could send and what it could not."""

    def __init__(self, exporter: SpanExporter, queue: _Queue, count: Count) -> None:
        self._exporter = exporter
        self._queue = queue
        self._count = count

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send one batch."""
        self._queue.left(len(spans))
        result = self._exporter.export(spans)
        self._count("exported" if result is SpanExportResult.SUCCESS else "dropped", len(spans))
        return result

    def shutdown(self) -> None:
        """Let go of the connection."""
        self._exporter.shutdown()
