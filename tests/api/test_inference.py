"""The inference endpoint over a real socket: slow and large bodies, clients that leave in each phase."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import uvicorn

from app.api.inference import Inference
from app.api.leaving import LeavingProtocol
from app.errors import Internal, QuotaExhausted, RateLimited
from app.observability.metrics import Metrics
from app.types import Operation, Reply, Request

PATIENCE = 10.0
LIMIT = 10_000
BODY_SECONDS = 0.3


@dataclass
class Stage:
    """A stand-in for the pipeline that does what the body says, and writes down how each request ended."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    ends: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    bodies: list[bytes] = field(default_factory=list)

    @asynccontextmanager
    async def answer(self, request: Request) -> AsyncIterator[Reply]:
        """The request's way, reduced to its ending."""
        try:
            body = await request.read()
            self.bodies.append(body)
            yield await self._reply(body)
            await asyncio.sleep(0.02)  # closing an upstream may take a few turns of the loop
        except asyncio.CancelledError:
            self.ends.put_nowait("cancelled")
            raise
        except BaseException as exc:
            self.ends.put_nowait(type(exc).__name__)
            raise
        self.ends.put_nowait("complete")

    async def _reply(self, body: bytes) -> Reply:
        match body:
            case b"refuse":
                raise RateLimited("requests_per_minute of the key", headers=((b"retry-after", b"3"),))
            case b"spent":
                raise QuotaExhausted("the day's budget is spent")
            case b"think":
                self.reached.set()
                await self.go_on.wait()
            case b"crash":
                raise ZeroDivisionError("a secret of the inside")
        stream = body in (b"stream", b"endless", b"break")
        kind = b"text/event-stream" if stream else b"application/json"
        return Reply(200, [(b"content-type", kind)], self._blocks(body), stream)

    async def _blocks(self, body: bytes) -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        self.reached.set()
        if body == b"break":
            raise Internal("broken off")
        while body == b"endless":
            await asyncio.sleep(0.005)
            yield b"data: more\n\n"
        yield b"data: [DONE]\n\n"

    async def end(self) -> str:
        """How the next request ended."""
        async with asyncio.timeout(PATIENCE):
            return await self.ends.get()


@dataclass
class Server:
    """A running server: its port, its stage, its metrics."""

    port: int
    stage: Stage
    metrics: Metrics
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        return reader, writer

    async def hang_up(self) -> None:
        """Close every connection that was opened."""
        for writer in self.writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def ask(self, body: bytes, method: str = "POST") -> tuple[int, dict[str, str], bytes]:
        """Status, head and body of one whole exchange."""
        reader, writer = await self.open()
        writer.write(request(body, method))
        return await response(reader)


def request(body: bytes, method: str = "POST", length: int | None = None) -> bytes:
    """A request as bytes; `length` is what the head says of the body."""
    head = f"{method} / HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body) if length is None else length}\r\n\r\n"
    return head.encode() + body


async def response(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, head and body of an answer."""
    async with asyncio.timeout(PATIENCE):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        if "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        else:
            body = await reader.readuntil(b"0\r\n\r\n")
    return int(lines[0].split()[1]), headers, body


@pytest.fixture(params=[LeavingProtocol, "httptools"], ids=["ours", "plain"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """Uvicorn as the gateway runs it, and as others would, with one endpoint."""
    stage, metrics = Stage(), Metrics()
    endpoint = Inference(
        Operation.CHAT,
        stage.answer,
        new_id=lambda: "req_1",
        metrics=metrics,
        max_body_bytes=LIMIT,
        body_timeout_seconds=BODY_SECONDS,
    )
    config = uvicorn.Config(endpoint, port=0, http=request.param, lifespan="off", log_config=None, access_log=False)
    running = uvicorn.Server(config)
    running.install_signal_handlers = lambda: None  # type: ignore[attr-defined]  # pytest keeps its own
    task = asyncio.create_task(running.serve())
    while not running.started:
        await asyncio.sleep(0.005)
    made = Server(running.servers[0].sockets[0].getsockname()[1], stage, metrics)
    yield made
    await made.hang_up()
    running.should_exit = running.force_exit = True
    await task


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, within the patience of a test."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_whole_answer(server: Server) -> None:
    """The head has length, request and time taken; what closes after the answer is not cancelled."""
    status, headers, body = await server.ask(b"{}")
    assert (status, body) == (200, b"data: 1\n\ndata: [DONE]\n\n")
    assert headers["content-length"] == str(len(body))
    assert headers["x-request-id"] == "req_1"
    assert int(headers["openai-processing-ms"]) >= 0
    assert await server.stage.end() == "complete"


async def test_a_stream(server: Server) -> None:
    """Blocks go out as they come, nobody buffers them, and the end of a stream is no cancellation."""
    status, headers, body = await server.ask(b"stream")
    assert status == 200
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert b"data: 1\n\n" in body
    assert b"data: [DONE]\n\n" in body
    assert await server.stage.end() == "complete"


@pytest.mark.parametrize(
    ("body", "status", "code", "header"),
    [
        (b"refuse", 429, "rate_limit_exceeded", ("retry-after", "3")),
        (b"spent", 429, "insufficient_quota", ("x-should-retry", "false")),
    ],
)
async def test_refusals_keep_their_status_and_headers(
    server: Server, body: bytes, status: int, code: str, header: tuple[str, str]
) -> None:
    """A refusal is the envelope with its own headers, and the connection serves the next request."""
    reader, writer = await server.open()
    for _ in range(2):
        writer.write(request(body))
        found, headers, sent = await response(reader)
        assert found == status
        assert json.loads(sent)["error"]["code"] == code
        assert headers[header[0]] == header[1]
        assert headers["x-request-id"] == "req_1"


async def test_other_methods_are_405(server: Server) -> None:
    """Every method but POST is refused before the pipeline is entered."""
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
        status, headers, body = await server.ask(b"", method)
        assert status == 405
        assert headers["allow"] == "POST"
        assert json.loads(body)["error"]["code"] == "method_not_allowed"
    assert server.stage.ends.empty()


async def test_a_body_over_the_limit_is_413(server: Server) -> None:
    """One byte too many, declared by its length or sent in chunks; exactly the limit is taken."""
    assert (await server.ask(b"x" * LIMIT))[0] == 200
    status, _, body = await server.ask(b"x" * (LIMIT + 1))
    assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")
    reader, writer = await server.open()
    writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    with contextlib.suppress(ConnectionError):  # the server may hang up before it has all
        for _ in range(LIMIT // 500 + 1):
            writer.write(b"1f4\r\n" + b"x" * 500 + b"\r\n")
            await writer.drain()
    assert (await response(reader))[0] == 413


async def test_a_body_in_pieces_arrives_whole(server: Server) -> None:
    """However the bytes are cut, the pipeline sees one body."""
    reader, writer = await server.open()
    writer.write(request(b"", length=9))
    for piece in (b"abc", b"def", b"ghi"):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.02)
    assert (await response(reader))[0] == 200
    assert server.stage.bodies == [b"abcdefghi"]


@pytest.mark.parametrize("drip", [False, True])
async def test_a_body_that_takes_too_long_is_refused(server: Server, drip: bool) -> None:
    """Whether it stops or drips for ever, the request ends; it never reaches the stages behind."""
    reader, writer = await server.open()
    writer.write(request(b"x", length=100))

    async def dripping() -> None:
        while drip:
            writer.write(b"x")
            await asyncio.sleep(BODY_SECONDS / 6)

    task = asyncio.create_task(dripping())
    status, _, body = await response(reader)
    task.cancel()
    assert (status, json.loads(body)["error"]["code"]) == (400, "request_timeout")
    assert server.stage.bodies == []


async def test_a_client_that_leaves_while_it_sends(server: Server) -> None:
    """The request ends as cancelled, and nothing waits for the rest of the body."""
    _, writer = await server.open()
    writer.write(request(b"half", length=100))
    await writer.drain()
    await until(lambda: in_flight(server) == 1)
    writer.close()
    assert await server.stage.end() == "cancelled"
    await until(lambda: in_flight(server) == 0)


async def test_a_client_that_leaves_while_it_waits(server: Server) -> None:
    """The thinking stage is cancelled at once, before a byte of an answer."""
    _, writer = await server.open()
    writer.write(request(b"think"))
    await server.stage.reached.wait()
    writer.close()
    assert await server.stage.end() == "cancelled"
    await until(lambda: in_flight(server) == 0)


async def test_a_client_that_leaves_while_it_reads(server: Server) -> None:
    """A stream is stopped as soon as nobody reads it."""
    reader, writer = await server.open()
    writer.write(request(b"endless"))
    await reader.readuntil(b"data: more")
    writer.close()
    assert await server.stage.end() == "cancelled"
    await until(lambda: in_flight(server) == 0)


async def test_an_answer_that_breaks_off_ends_the_connection(server: Server) -> None:
    """After the head there is no second answer: the stream ends without its last chunk."""
    reader, writer = await server.open()
    writer.write(request(b"break"))
    async with asyncio.timeout(PATIENCE):
        everything = await reader.read()
    assert everything.count(b"HTTP/1.1") == 1
    assert not everything.endswith(b"0\r\n\r\n")
    assert await server.stage.end() == "Internal"


async def test_requests_before_and_after_a_client_that_left_are_untouched(server: Server) -> None:
    """Fifty clients that leave at a random phase do not disturb one that stays."""

    async def leave(number: int) -> None:
        _, writer = await server.open()
        writer.write(request((b"think", b"endless", b"half")[number % 3], length=200 if number % 3 == 2 else None))
        await asyncio.sleep(0.001 * (number % 7))
        writer.close()

    async def stay() -> int:
        return (await server.ask(b"stream"))[0]

    results = await asyncio.gather(*(leave(number) for number in range(50)), *(stay() for _ in range(20)))
    assert results[50:] == [200] * 20
    await until(lambda: in_flight(server) == 0)


def in_flight(server: Server) -> int:
    """Requests that the metrics count as open."""
    return server.metrics._in_flight
