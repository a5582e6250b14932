from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from app.admission import idempotency
from app.admission.idempotency import MAX_SAVED_BYTES, Idempotency
from app.backends.relay import error_event
from app.errors import Conflict, GatewayError, InvalidRequest, RateLimited, Unavailable, UpstreamFailed
from app.storage.redis import RedisStore
from app.types import Operation, Principal, Reply, Request
from tests.admission.cases import principal

WAIT = 10


@dataclass
class Upstream:
    """An answering that counts how often it is asked, waits for `go`, and may fail."""

    blocks: tuple[bytes, ...] = (b"data: one\n\n", b"data: [DONE]\n\n")
    stream: bool = True
    error: GatewayError | None = None
    asked: int = 0
    go: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def answer(self, request: Request) -> AsyncIterator[Reply]:
        """One answer."""
        self.asked += 1
        await request.read()
        if self.error is not None:
            raise self.error

        async def body() -> AsyncIterator[bytes]:
            yield self.blocks[0]
            await self.go.wait()
            for block in self.blocks[1:]:
                yield block

        yield Reply(200, [(b"content-type", b"text/event-stream"), (b"x-other", b"1")], body(), self.stream)


@dataclass
class Gate:
    """A gateway's front: asks, and gives whole answers."""

    store: RedisStore
    upstream: Upstream = field(default_factory=Upstream)
    who: dict[bytes, Principal] = field(default_factory=dict)
    asked: int = 0

    def __post_init__(self) -> None:
        self.upstream.go.set()

        async def authenticate(headers: Any) -> Principal:
            return self.who.get(headers.get(b"authorization", b""), principal())

        self.front = Idempotency(self.store, authenticate, self.upstream.answer)

    def request(self, body: bytes, **headers: str) -> Request:
        """A request with this body and these headers."""

        async def read() -> bytes:
            return body

        self.asked += 1
        sent = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        return Request(f"req-{self.asked}", Operation.CHAT, sent, read, 0.0)

    async def ask(self, body: bytes = b"{}", **headers: str) -> tuple[dict[bytes, bytes], bytes]:
        """Headers and body of a complete answer."""
        async with self.front(self.request(body, **headers)) as reply:
            return dict(reply.headers), b"".join([block async for block in reply.body])


@pytest.fixture
def gate(store: RedisStore) -> Gate:
    """A front over a real Redis."""
    return Gate(store)


async def test_the_same_key_and_body_is_answered_from_what_was_saved(gate: Gate) -> None:
    """The upstream is asked once; the second answer is the first, and says so."""
    first_headers, first = await gate.ask(idempotency_key="a")
    headers, again = await gate.ask(idempotency_key="a")
    assert again == first == b"".join(gate.upstream.blocks)
    assert gate.upstream.asked == 1
    assert b"idempotent-replayed" not in first_headers
    assert headers[b"idempotent-replayed"] == b"true"
    assert headers[b"x-original-request-id"] == b"req-1"
    assert headers[b"content-type"] == b"text/event-stream"


async def test_without_a_key_every_call_runs(gate: Gate) -> None:
    """Nothing is saved, and Redis is not asked."""
    await gate.ask()
    await gate.ask()
    assert gate.upstream.asked == 2
    assert await gate.store.command("DBSIZE") == 0


async def test_another_body_under_the_same_key_is_refused(gate: Gate) -> None:
    """400, whether the first call runs or is over; the key is named, its value is not."""
    await gate.ask(b'{"a":1}', idempotency_key="secret-name")
    with pytest.raises(InvalidRequest, match="Idempotency-Key") as refused:
        await gate.ask(b'{"a":2}', idempotency_key="secret-name")
    assert refused.value.status == 400
    assert "secret-name" not in refused.value.message


async def test_while_it_runs_a_second_call_meets_409(gate: Gate) -> None:
    """Which the SDKs try again; afterwards the saved answer is there."""
    gate.upstream.go.clear()
    first = asyncio.create_task(gate.ask(idempotency_key="a"))
    while not gate.upstream.asked:
        await asyncio.sleep(0.01)
    with pytest.raises(Conflict, match="still running"):
        await gate.ask(idempotency_key="a")
    gate.upstream.go.set()
    _, body = await first
    assert (await gate.ask(idempotency_key="a"))[1] == body
    assert gate.upstream.asked == 1


async def test_racing_calls_run_once(gate: Gate) -> None:
    """Of fifty at once one runs, the others meet 409 or its answer."""
    results = await asyncio.gather(*(gate.ask(idempotency_key="a") for _ in range(50)), return_exceptions=True)
    assert gate.upstream.asked == 1
    assert all(isinstance(result, Conflict | tuple) for result in results)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_caller_that_leaves_finds_the_answer_when_it_comes_back(store: RedisStore, stream: bool) -> None:
    """The call runs on without its caller, is saved, and the retry pays nothing."""
    gate = Gate(store, Upstream(stream=stream))
    gate.upstream.go.clear()
    first = asyncio.create_task(gate.ask(idempotency_key="a"))
    while not gate.upstream.asked:
        await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    gate.upstream.go.set()
    async with asyncio.timeout(WAIT):
        while True:
            try:
                _, body = await gate.ask(idempotency_key="a")
            except Conflict:
                await asyncio.sleep(0.01)
            else:
                break
    assert body == b"".join(gate.upstream.blocks)
    assert gate.upstream.asked == 1


async def test_a_refused_call_leaves_the_key_free(gate: Gate) -> None:
    """A 429 is not kept: the retry runs."""
    gate.upstream.error = RateLimited("too fast")
    with pytest.raises(RateLimited):
        await gate.ask(idempotency_key="a")
    gate.upstream.error = None
    await gate.ask(idempotency_key="a")
    assert gate.upstream.asked == 2


async def test_a_stream_that_broke_off_leaves_the_key_free(gate: Gate) -> None:
    """Half an answer is none: the retry is made anew."""
    gate.upstream.blocks = (b"data: one\n\n", error_event(UpstreamFailed("It broke off.")))
    _, broken = await gate.ask(idempotency_key="k")
    assert b"It broke off." in broken
    gate.upstream.blocks = (b"data: one\n\n", b"data: [DONE]\n\n")
    headers, whole = await gate.ask(idempotency_key="k")
    assert whole.endswith(b"data: [DONE]\n\n")
    assert b"idempotent-replayed" not in headers
    assert gate.upstream.asked == 2


async def test_keys_belong_to_their_tenant_and_their_api_key(gate: Gate) -> None:
    """Two tenants, and two keys of one tenant, may use the same Idempotency-Key and never share an answer."""
    gate.who = {b"x": principal(tenant_id="bloom"), b"y": principal(key_id="k2")}
    for authorization in ("", "x", "y"):
        headers, _ = await gate.ask(idempotency_key="a", authorization=authorization)
        assert b"idempotent-replayed" not in headers
    assert gate.upstream.asked == 3


async def test_a_killed_gateway_frees_the_key_soon(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark that nobody renews runs out, and the retry runs anew."""
    monkeypatch.setattr(idempotency, "MARK_MS", 50)
    gate.upstream.go.clear()
    first = asyncio.create_task(gate.ask(idempotency_key="a"))
    while not gate.upstream.asked:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    gate.upstream.go.set()
    await gate.ask(idempotency_key="a")
    assert gate.upstream.asked == 2
    await first


async def test_an_answer_too_large_to_keep_is_not_made_twice(store: RedisStore) -> None:
    """The retry is told, rather than paying again unasked."""
    gate = Gate(store, Upstream(blocks=(b"x" * (MAX_SAVED_BYTES + 1),), stream=False))
    await gate.ask(idempotency_key="a")
    with pytest.raises(Conflict, match="too large"):
        await gate.ask(idempotency_key="a")
    assert gate.upstream.asked == 1


async def test_without_redis_a_key_cannot_be_promised() -> None:
    """503, and the upstream is not asked."""
    async with RedisStore.connect("redis://127.0.0.1:1") as store:
        gate = Gate(store)
        with pytest.raises(Unavailable):
            await gate.ask(idempotency_key="a")
    assert gate.upstream.asked == 0


@pytest.mark.parametrize("name", ["", "x" * 256])
async def test_a_key_has_a_sensible_length(gate: Gate, name: str) -> None:
    """An empty or an endless key is refused by name."""
    with pytest.raises(InvalidRequest, match="1 to 255"):
        await gate.ask(idempotency_key=name)


async def test_a_stop_gives_up_what_nobody_waits_for(gate: Gate) -> None:
    """At the end of the grace time the tasks end, and the key is free for the next gateway."""
    gate.upstream.go.clear()
    first = asyncio.create_task(gate.ask(idempotency_key="a"))
    while not gate.upstream.asked:
        await asyncio.sleep(0.01)
    await gate.front.drain()
    with pytest.raises(Unavailable):
        await first
    gate.upstream.go.set()
    await gate.ask(idempotency_key="a")
    assert gate.upstream.asked == 2
