"""The spans of a request: a SERVER span around the endpoint, a CLIENT span around each try of an upstream.

A caller's `traceparent` is continued; upstreams get a `traceparent` of ours and nothing else of the caller's (no
baggage, no tracestate). A request that is not sampled costs its ids and nothing more: no attribute is made for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from opentelemetry import context as context_api
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    format_span_id,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.observability import attributes
from app.types import Call, Endpoint, LedgerEntry

_REQUEST = context_api.create_key("tunegate-request")
_NOBODY = context_api.Context()

U = TypeVar("U")
U_co = TypeVar("U_co", covariant=True)


class Opens(Protocol[U_co]):
    """What a backend is to us: it opens one call at one address."""

    def open(self, endpoint: Endpoint, call: Call, request_id: str) -> AbstractAsyncContextManager[U_co]:
        """Send and wait for the head."""
        ...


@dataclass(slots=True)
class RequestSpans:
    """The spans of one request, found in its context by whoever has something to tell them."""

    server: Span
    client: Span | None = None
    sent_at: float = 0.0

    def finished(self, entry: LedgerEntry, latency_seconds: float, first_byte_seconds: float | None) -> None:
        """The request is recorded: say what it used and how it ended."""
        self.server.set_attributes(attributes.served(entry))
        if self.client is None or not self.client.is_recording():
            return
        self.client.set_attributes(attributes.used(entry))
        if first_byte_seconds is not None:
            waited = time.perf_counter() - self.sent_at - (latency_seconds - first_byte_seconds)
            self.client.set_attribute("gen_ai.response.time_to_first_chunk", max(waited, 0.0))


def current() -> RequestSpans | None:
    """The spans of the request that is running here; None when it is not sampled."""
    found = context_api.get_value(_REQUEST)
    return found if isinstance(found, RequestSpans) else None


class TracedEndpoint:
    """An ASGI endpoint with a SERVER span around each request."""

    def __init__(self, tracer: Tracer, app: ASGIApp, route: str) -> None:
        self._tracer = tracer
        self._app = app
        self._route = route
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request inside its span."""
        carrier = _carrier(scope["headers"])
        parent = self._propagator.extract(carrier, _NOBODY) if carrier else _NOBODY
        method = "POST" if scope["method"] == "POST" else "_OTHER"
        span = self._tracer.start_span(f"{method} {self._route}", parent, SpanKind.SERVER)
        context = set_span_in_context(span, parent)
        if span.is_recording():
            span.set_attributes(attributes.asked(scope, method, self._route))
            context = context_api.set_value(_REQUEST, RequestSpans(span), context)
            send = _Status(send, span)
        token = context_api.attach(context)
        try:
            with _Ending(span):
                await self._app(scope, receive, send)
        finally:
            context_api.detach(token)


class TracedBackend(Generic[U]):
    """A backend with a CLIENT span around each call."""

    def __init__(self, tracer: Tracer, backend: Opens[U]) -> None:
        self._tracer = tracer
        self._backend = backend

    def open(self, endpoint: Endpoint, call: Call, request_id: str) -> AbstractAsyncContextManager[U]:
        """As the backend itself; the span is open as long as the call is."""
        span = get_current_span()
        if span.is_recording():
            return _Exchange(self, endpoint, call, request_id)
        return self.sent(span, endpoint, call, request_id)  # the upstream is told that nobody looks

    def start(self, endpoint: Endpoint, call: Call) -> Span:
        """A new span of this call."""
        name = f"{attributes.OPERATIONS[call.operation]} {endpoint.model}"
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes.sent(endpoint, call))
        spans = current()
        if spans is not None:
            spans.client, spans.sent_at = span, time.perf_counter()
        return span

    def sent(self, span: Span, endpoint: Endpoint, call: Call, request_id: str) -> AbstractAsyncContextManager[U]:
        """The call itself, with this span's `traceparent`."""
        context = span.get_span_context()
        if not context.is_valid:
            return self._backend.open(endpoint, call, request_id)
        trace, parent = format_trace_id(context.trace_id), format_span_id(context.span_id)
        headers = {**endpoint.headers, "traceparent": f"00-{trace}-{parent}-{context.trace_flags:02x}"}
        return self._backend.open(replace(endpoint, headers=headers), call, request_id)


class _Exchange(Generic[U]):
    """One call and its span: the span ends after the call, also when the call could not be opened."""

    def __init__(self, traced: TracedBackend[U], endpoint: Endpoint, call: Call, request_id: str) -> None:
        self._traced = traced
        self._asked = (endpoint, call, request_id)
        self._open = AsyncExitStack()

    async def __aenter__(self) -> U:
        endpoint, call, request_id = self._asked
        async with AsyncExitStack() as stack:
            span = self._traced.start(endpoint, call)
            stack.enter_context(_Ending(span))
            opened = await stack.enter_async_context(self._traced.sent(span, endpoint, call, request_id))
            self._open = stack.pop_all()
            return opened

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._open.__aexit__(kind, exc, trace)


class _Ending:
    """Ends a span with its block, and notes what the block raised: the class, never the message."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._span.is_recording():
            self._span.set_attribute("error.type", kind.__qualname__)
            if issubclass(kind, Exception):  # a caller that leaves cancels; that is no error of ours
                self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class _Status:
    """Passes messages on, and notes the status of the answer on the span."""

    def __init__(self, send: Send, span: Span) -> None:
        self._send = send
        self._span = span

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._span.set_attributes(attributes.status(message))
            if message["status"] >= 500:
                self._span.set_status(Status(StatusCode.ERROR))
        await self._send(message)


def _carrier(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The one header that is taken from a caller; given twice it counts as not given, as W3C says."""
    found = [value for name, value in headers if name == b"traceparent"]
    return {"traceparent": found[0].decode("latin-1")} if len(found) == 1 else {}
