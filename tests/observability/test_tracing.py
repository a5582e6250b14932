"""Traces against a real OTLP/HTTP collector on loopback that decodes the protobuf."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from aiohttp import web
from msgspec.structs import replace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from starlette.types import Message, Receive, Scope, Send

from app.backends.provider import HttpBackend
from app.errors import UpstreamFailed
from app.observability.correlation import current_trace_id
from app.observability.tracing import NoTracing, Tracing, traces_url, tracing
from app.types import Call, Endpoint, LedgerEntry, Operation, Outcome
from tests.observability.test_metrics import ENTRY
from tests.support.processes import free_port

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PROMPT = "my account is ZQ-77"
BODY = msgspec.json.encode({"model": "support", "messages": [{"role": "user", "content": PROMPT}], "temperature": 0.5})


@dataclass
class Collector:
    """A collector that keeps what it is sent; `says` is the status it answers with."""

    url: str = ""
    says: int = 200
    delay_seconds: float = 0.0
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        """One export."""
        sent = ExportTraceServiceRequest.FromString(await request.read())
        await asyncio.sleep(self.delay_seconds)
        if self.says == 200:
            for resource in sent.resource_spans:
                self.resources.append(values(resource.resource))
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return web.Response(status=self.says)

    def one(self, kind: int) -> Span:
        """The only span of this kind."""
        (span,) = [span for span in self.spans if span.kind == kind]
        return span


def values(holder: Any) -> dict[str, Any]:
    """Attributes as plain values."""
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in holder.attributes}


@asynccontextmanager
async def serving(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """A real HTTP server on loopback; yields its address."""
    app = web.Application()
    app.router.add_post("/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def counting(counted: Counter[str]) -> Callable[[str, int], None]:
    """Adds up what became of spans."""
    return lambda result, spans: counted.update({result: spans})


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    """A collector that is there."""
    made = Collector()
    async with serving(made.take) as url:
        made.url = url
        yield made


def call(*, stream: bool = False) -> Call:
    """A parsed call with a prompt in it."""
    return Call(
        operation=Operation.CHAT,
        route="support",
        body=BODY,
        fields=msgspec.json.decode(BODY, type=dict[str, msgspec.Raw]),
        stream=stream,
        include_usage=False,
        max_tokens=64,
        choices=1,
        user="user-7",
        prompt_tokens_estimate=9,
    )


async def request(app: Any, *, headers: list[tuple[bytes, bytes]] | None = None, method: str = "POST") -> list[Message]:
    """One ASGI request, in a task of its own as a server would; returns what was sent."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": BODY}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": "/v1/chat/completions",
        "headers": headers or [],
        "scheme": "http",
    }
    await asyncio.create_task(app(scope, receive, send))
    return sent


@dataclass
class Gateway:
    """The shape of the request path: an endpoint that calls a backend and then records."""

    traces: Tracing | NoTracing
    upstream: str
    entry: LedgerEntry = ENTRY
    status: int = 200
    replica: str | None = "http://replica"
    seen: list[str | None] = field(default_factory=list)

    def app(self) -> Any:
        """The traced endpoint."""
        return self.traces.endpoint(self, "/v1/chat/completions")

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """One request."""
        self.seen.append(current_trace_id())
        endpoint = Endpoint("vllm", self.upstream, "acme--support@1", {"authorization": "Bearer x"}, self.replica)
        async with HttpBackend() as http, self.traces.backend(http).open(endpoint, call(), "req_1") as opened:
            async for _ in opened.blocks():
                pass
            self.traces.finished(lambda *_: None)(self.entry, 0.5, 0.1)
        head = [(b"x-request-id", b"req_1")]
        await send({"type": "http.response.start", "status": self.status, "headers": head})
        await send({"type": "http.response.body", "body": b"{}"})


@dataclass
class Upstream:
    """An upstream that keeps the headers it got."""

    status: int = 200
    headers: list[dict[str, str]] = field(default_factory=list)

    async def answer(self, asked: web.Request) -> web.StreamResponse:
        """A small answer."""
        self.headers.append({name.lower(): value for name, value in asked.headers.items()})
        return web.json_response({}, status=self.status)


async def test_a_request_gives_a_server_and_a_client_span(collector: Collector) -> None:
    """Both spans carry the conventions' attributes, are parent and child, and say what was used."""
    upstream = Upstream()
    async with serving(upstream.answer) as url, tracing(collector.url, 1.0) as traces:
        await request(Gateway(traces, url).app())
    server, client = collector.one(Span.SPAN_KIND_SERVER), collector.one(Span.SPAN_KIND_CLIENT)
    assert (server.name, client.name) == ("POST /v1/chat/completions", "chat acme--support@1")
    assert client.parent_span_id == server.span_id
    assert client.trace_id == server.trace_id
    assert collector.resources[0]["service.name"] == "tunegate"
    told = values(server)
    assert told["http.response.status_code"] == 200
    assert told["http.route"] == "/v1/chat/completions"
    assert told["tunegate.request.id"] == "req_1"
    assert told["tunegate.outcome"] == "ok"
    assert told["tunegate.cost_microusd"] == 35
    told = values(client)
    first = told.pop("gen_ai.response.time_to_first_chunk")
    assert first >= 0
    assert told == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "acme--support@1",
        "gen_ai.request.max_tokens": 64,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "server.address": "127.0.0.1",
        "server.port": int(url.rsplit(":", 1)[1]),
        "tunegate.upstream": "vllm",
        "tunegate.usage.estimated": False,
    }


async def test_the_upstream_gets_our_traceparent_and_nothing_of_the_callers(collector: Collector) -> None:
    """The trace goes on to the upstream under the client span; baggage and tracestate stay here."""
    upstream = Upstream()
    headers = [(b"traceparent", PARENT.encode()), (b"baggage", b"user=7"), (b"tracestate", b"v=secret")]
    async with serving(upstream.answer) as url, tracing(collector.url, 0.0) as traces:
        await request(Gateway(traces, url).app(), headers=headers)
    client = collector.one(Span.SPAN_KIND_CLIENT)
    (got,) = upstream.headers
    assert got["traceparent"] == f"00-0af7651916cd43dd8448eb211c80319c-{client.span_id.hex()}-01"
    assert got["authorization"] == "Bearer x"
    assert not {"baggage", "tracestate"} & got.keys()
    assert collector.one(Span.SPAN_KIND_SERVER).parent_span_id.hex() == "b7ad6b7169203331"


async def test_a_callers_no_is_kept_and_told_on(collector: Collector) -> None:
    """A traceparent that is not sampled stays so, at any ratio, and the upstream is told the same."""
    upstream = Upstream()
    refused = PARENT[:-2] + "00"
    async with serving(upstream.answer) as url, tracing(collector.url, 1.0) as traces:
        gateway = Gateway(traces, url)
        await request(gateway.app(), headers=[(b"traceparent", refused.encode())])
    assert collector.spans == []
    assert upstream.headers[0]["traceparent"].startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert upstream.headers[0]["traceparent"].endswith("-00")
    assert gateway.seen == [None]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"traceparent", b"garbage")],
        [(b"traceparent", b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01")],
        [(b"traceparent", b"\xff\xfe")],
        [(b"traceparent", PARENT.encode()), (b"traceparent", PARENT.encode())],
    ],
)
async def test_a_broken_traceparent_is_none(collector: Collector, headers: list[tuple[bytes, bytes]]) -> None:
    """What cannot be read, or is given twice, starts a trace of our own; the request is served."""
    upstream = Upstream()
    async with serving(upstream.answer) as url, tracing(collector.url, 1.0) as traces:
        sent = await request(Gateway(traces, url).app(), headers=headers)
    assert sent[0]["status"] == 200
    assert collector.one(Span.SPAN_KIND_SERVER).parent_span_id == b""
    assert collector.one(Span.SPAN_KIND_SERVER).trace_id.hex() != PARENT[3:35]


async def test_content_and_identities_are_never_sent(collector: Collector) -> None:
    """Nothing of the prompt, the user or a key reaches the collector, not even by an exception that quotes it."""

    async def broken(*_: Any) -> None:
        raise ValueError(PROMPT)

    upstream = Upstream()
    async with serving(upstream.answer) as url, tracing(collector.url, 1.0) as traces:
        await request(Gateway(traces, url).app())
        with pytest.raises(ValueError, match="account"):
            await request(traces.endpoint(broken, "/v1/chat/completions"))
    everything = b"".join(span.SerializeToString() for span in collector.spans)
    for secret in (b"account", b"ZQ-77", b"user-7", b"Bearer", b"key_1"):
        assert secret not in everything
    failed = [span for span in collector.spans if span.status.code == 2]
    assert [values(span)["error.type"] for span in failed] == ["ValueError"]


async def test_a_failed_try_is_an_error_of_the_client_span(collector: Collector) -> None:
    """An upstream's 500 ends the client span as an error named by its class, before any retry."""
    upstream = Upstream(status=500)
    async with serving(upstream.answer) as url, tracing(collector.url, 1.0) as traces:
        with pytest.raises(UpstreamFailed):
            await request(Gateway(traces, url, replica=None).app())
    client = collector.one(Span.SPAN_KIND_CLIENT)
    assert values(client)["error.type"] == "UpstreamFailed"
    assert values(client)["gen_ai.provider.name"] == "openai"
    assert client.status.code == 2
    assert client.status.message == ""


async def test_an_answer_that_breaks_off_is_told_by_its_outcome(collector: Collector) -> None:
    """A stream that broke after its head leaves the outcome as the error's type; our own 5xx marks the server span."""
    upstream = Upstream()
    entry = replace(ENTRY, outcome=Outcome.UPSTREAM_BROKE, status=502)
    async with serving(upstream.answer) as url, tracing(collector.url, 1.0) as traces:
        await request(Gateway(traces, url, entry=entry, status=502).app())
    assert values(collector.one(Span.SPAN_KIND_CLIENT))["error.type"] == "upstream_broke"
    server = collector.one(Span.SPAN_KIND_SERVER)
    assert (server.status.code, values(server)["error.type"]) == (2, "502")


async def test_a_caller_that_leaves_is_no_error(collector: Collector) -> None:
    """A cancelled request ends its span without an error status, and leaves no context behind."""
    started = asyncio.Event()

    async def slow(*_: Any) -> None:
        started.set()
        await asyncio.sleep(60)

    async with tracing(collector.url, 1.0) as traces:
        running = asyncio.create_task(request(traces.endpoint(slow, "/v1/chat/completions")))
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert current_trace_id() is None
    server = collector.one(Span.SPAN_KIND_SERVER)
    assert server.status.code == 0
    assert values(server)["error.type"] == "CancelledError"


async def test_off_means_the_very_same_objects() -> None:
    """Without an address every hook gives back what it got: there is nothing to pay."""
    async with tracing(None, 1.0) as traces:
        app, http, finished = Gateway(traces, ""), HttpBackend(), print
        assert traces.endpoint(app, "/x") is app
        assert traces.backend(http) is http
        assert traces.finished(finished) is finished


async def test_the_ratio_decides_for_callers_without_a_trace(collector: Collector) -> None:
    """At ratio 0 nothing is sent, and the endpoint still serves."""
    async with tracing(collector.url, 0.0) as traces:
        upstream = Upstream()
        async with serving(upstream.answer) as url:
            sent = await request(Gateway(traces, url).app())
    assert sent[0]["status"] == 200
    assert collector.spans == []


@pytest.mark.parametrize("says", [400, 503])
async def test_a_collector_that_refuses_costs_spans_only(
    collector: Collector, says: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is answered, the spans are counted as dropped, and closing does not hang."""
    counted: Counter[str] = Counter()
    collector.says = says
    monkeypatch.setattr("app.observability.tracing.SHUTDOWN_SECONDS", 0.2)
    upstream = Upstream()
    async with (
        serving(upstream.answer) as url,
        asyncio.timeout(30),
        tracing(collector.url, 1.0, count=counting(counted)) as traces,
    ):
        sent = await request(Gateway(traces, url).app())
    assert sent[0]["status"] == 200
    assert counted == {"ended": 2, "dropped": 2}


async def test_a_collector_that_is_away_costs_spans_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens at the address: requests are answered, spans are dropped and counted."""
    monkeypatch.setattr("app.observability.tracing.SHUTDOWN_SECONDS", 0.2)
    counted: Counter[str] = Counter()
    upstream = Upstream()
    async with (
        serving(upstream.answer) as url,
        asyncio.timeout(30),
        tracing(f"http://127.0.0.1:{free_port()}", 1.0, count=counting(counted)) as traces,
    ):
        sent = await request(Gateway(traces, url).app())
    assert sent[0]["status"] == 200
    assert counted == {"ended": 2, "dropped": 2}


@pytest.mark.parametrize("says", [200, 503])
async def test_every_span_that_ended_is_counted_again_however_small_the_queue(
    collector: Collector, says: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As exported or as dropped, those too that a full queue pushes out; a collector that refuses gets none."""
    counted: Counter[str] = Counter()
    collector.says = says
    monkeypatch.setattr("app.observability.tracing.SHUTDOWN_SECONDS", 0.2)
    upstream = Upstream()
    async with (
        serving(upstream.answer) as url,
        asyncio.timeout(60),
        tracing(collector.url, 1.0, max_queued_spans=2, count=counting(counted)) as traces,
    ):
        app = Gateway(traces, url).app()
        sent = [await request(app) for _ in range(20)]
    assert {events[0]["status"] for events in sent} == {200}
    assert counted["ended"] == 40
    assert counted["exported"] + counted["dropped"] == 40
    assert (counted["exported"] > 0) is (says == 200)


async def test_what_was_sent_is_counted(collector: Collector) -> None:
    """Spans that the collector took are counted as exported."""
    counted: Counter[str] = Counter()
    upstream = Upstream()
    async with serving(upstream.answer) as url, tracing(collector.url, 1.0, count=counting(counted)) as traces:
        await request(Gateway(traces, url).app())
    assert counted == {"ended": 2, "exported": 2}


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://otel:4318", "http://otel:4318/v1/traces"),
        ("http://otel:4318/", "http://otel:4318/v1/traces"),
        ("https://otel.example/custom/traces", "https://otel.example/custom/traces"),
    ],
)
def test_the_standard_path_is_added_where_none_was_given(given: str, used: str) -> None:
    """A base address gets OTLP's own path, a full one is kept."""
    assert traces_url(given) == used
