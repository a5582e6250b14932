"""The HTTP client over real sockets, against a service that is slow, broken, hostile, or simply leaves."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator

import pytest

from app.backends.provider import HttpBackend
from app.errors import UpstreamFailed, UpstreamRefused, UpstreamTimedOut
from app.types import Call, Endpoint, Operation
from tests.backends.calls import call, endpoint
from tests.support.fault_proxy import fault_proxy
from tests.support.processes import free_port
from tests.support.provider import (
    Peer,
    Provider,
    Received,
    answer,
    events,
    fake_provider,
    plain,
    silent,
    streamed,
    whole,
)

EVENTS = b"".join(events("gpt", include_usage=True))
WHOLE = json.dumps(answer("gpt")).encode()


@pytest.fixture
async def backend() -> AsyncIterator[HttpBackend]:
    """The client, with a bound on answers that tests can reach."""
    async with HttpBackend(max_answer_bytes=1_000_000) as client:
        yield client


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """The service."""
    async with fake_provider() as running:
        yield running


async def _read(backend: HttpBackend, place: Endpoint, asked: Call) -> bytes:
    async with backend.open(place, asked, "req_1") as upstream:
        return b"".join([block async for block in upstream.blocks()])


async def _fails(backend: HttpBackend, place: Endpoint, asked: Call) -> UpstreamFailed:
    with pytest.raises(UpstreamFailed) as caught:
        async with asyncio.timeout(20):
            await _read(backend, place, asked)
    return caught.value


async def test_a_call_arrives_as_it_should(backend: HttpBackend, provider: Provider) -> None:
    """Path, model, credentials of ours, none of the caller's; the answer comes back byte for byte."""
    place = endpoint(provider.url, headers={"authorization": "Bearer ours"})
    assert await _read(backend, place, call(temperature=0.5)) == WHOLE
    assert await _read(backend, place, call(stream=True)) == EVENTS
    first, second = provider.received
    assert (first.method, first.path) == ("POST", "/v1/chat/completions")
    assert first.json == {"model": "gpt", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5}
    assert first.headers["authorization"] == "bearer ours"
    assert first.headers["accept-encoding"] == "identity"
    assert second.json["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("base", ["", "/", "/v1", "/v1/"])
async def test_a_base_url_may_end_as_it_likes(backend: HttpBackend, provider: Provider, base: str) -> None:
    """With or without /v1, with or without a slash."""
    await _read(backend, endpoint(provider.url + base), call(Operation.COMPLETIONS))
    assert provider.received[0].path == "/v1/completions"


async def test_connections_are_used_again(backend: HttpBackend, provider: Provider) -> None:
    """Whole answers and streams that came to their end leave their connection for the next call."""
    for stream in (False, True, False, True):
        await _read(backend, endpoint(provider.url), call(stream=stream))
    assert provider.connections == 1


async def test_a_body_of_many_megabytes_arrives(backend: HttpBackend, provider: Provider) -> None:
    """Large bodies are written in pieces."""
    text = "x" * 3_000_000
    await _read(backend, endpoint(provider.url), call(messages=[{"role": "user", "content": text}]))
    assert provider.received[0].json["messages"][0]["content"] == text


async def test_nobody_listens(backend: HttpBackend) -> None:
    """A refused connection is a lost one: the next server of a pool may answer."""
    error = await _fails(backend, endpoint(f"http://127.0.0.1:{free_port()}"), call())
    assert error.connection_lost
    assert not error.disconnected
    assert "127.0.0.1" not in error.message


async def test_a_slow_head_is_timed_out(backend: HttpBackend, provider: Provider) -> None:
    """No head within the first-byte time: a time-out, and the upstream is told to stop."""
    provider.then(silent)
    error = await _fails(backend, endpoint(provider.url, first_byte_timeout_seconds=0.1), call())
    assert isinstance(error, UpstreamTimedOut)
    assert not error.connection_lost
    async with asyncio.timeout(5):
        await provider.left.wait()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stall_between_blocks_is_timed_out(backend: HttpBackend, provider: Provider, stream: bool) -> None:
    """An answer that stops in its middle ends at the idle time."""

    async def stalling(request: Received, peer: Peer) -> None:
        await peer.head(200, "text/event-stream" if stream else "application/json")
        await peer.chunk(EVENTS[:40])
        await silent(request, peer)

    provider.then(stalling)
    error = await _fails(backend, endpoint(provider.url, idle_timeout_seconds=0.1), call(stream=stream))
    assert isinstance(error, UpstreamTimedOut)
    async with asyncio.timeout(5):
        await provider.left.wait()


async def test_an_answer_that_never_ends_is_timed_out(backend: HttpBackend, provider: Provider) -> None:
    """A trickle that keeps the idle clock happy ends at the total time."""

    async def trickling(request: Received, peer: Peer) -> None:
        await peer.head(200, "text/event-stream")
        while True:
            await peer.chunk(b": x\n\n")
            await asyncio.sleep(0.01)

    provider.then(trickling)
    place = endpoint(provider.url, total_timeout_seconds=0.3, idle_timeout_seconds=0.2)
    assert isinstance(await _fails(backend, place, call(stream=True)), UpstreamTimedOut)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reset_in_mid_answer_is_a_failure(backend: HttpBackend, provider: Provider, stream: bool) -> None:
    """A connection that is reset loses the answer, never passes half of it as whole."""

    async def resetting(request: Received, peer: Peer) -> None:
        await peer.head(200, "text/event-stream" if stream else "application/json")
        await peer.chunk(EVENTS[:40])
        await asyncio.sleep(0.05)
        peer.reset()
        raise ConnectionError

    provider.then(resetting)
    error = await _fails(backend, endpoint(provider.url), call(stream=stream))
    assert error.connection_lost
    assert not error.disconnected


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cut_body_is_a_failure(backend: HttpBackend, provider: Provider, stream: bool) -> None:
    """A body shorter than announced is not an answer."""

    async def cutting(request: Received, peer: Peer) -> None:
        kind = "text/event-stream" if stream else "application/json"
        await peer.send(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: 5000\r\n\r\n".encode() + WHOLE)
        raise ConnectionError

    provider.then(cutting)
    assert (await _fails(backend, endpoint(provider.url), call(stream=stream))).connection_lost


async def test_a_stale_connection_is_told_apart(backend: HttpBackend, provider: Provider) -> None:
    """A kept-alive connection that the other side has closed fails without a byte: worth one more try."""

    async def closing(request: Received, peer: Peer) -> None:
        await plain(request, peer)
        await peer.reader.readuntil(b"\r\n\r\n")
        raise ConnectionError

    provider.then(closing)
    place = endpoint(provider.url)
    await _read(backend, place, call())
    error = await _fails(backend, place, call())
    assert error.disconnected
    assert await _read(backend, place, call()) == WHOLE


@pytest.mark.parametrize("kind", ["application/json", "text/html", "text/plain"])
async def test_a_stream_must_be_one(backend: HttpBackend, provider: Provider, kind: str) -> None:
    """A 200 of another content type is no event stream."""
    provider.then(whole(WHOLE, content_type=kind))
    await _fails(backend, endpoint(provider.url), call(stream=True))


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_the_callers_fault_is_passed_on(backend: HttpBackend, provider: Provider, status: int) -> None:
    """A refusal comes back with its status and body."""
    body = b'{"error":{"message":"no","type":"invalid_request_error","param":null,"code":null}}'
    provider.then(whole(body, status))
    with pytest.raises(UpstreamRefused) as caught:
        await _read(backend, endpoint(provider.url), call())
    assert (caught.value.status, caught.value.body()) == (status, body)


async def test_a_refusal_of_any_size_is_bounded(backend: HttpBackend, provider: Provider) -> None:
    """An endless refusal is dropped at its bound and replaced by our own envelope."""
    provider.then(whole(b'{"error":{"message":"' + b"x" * 500_000 + b'"}}', 400))
    with pytest.raises(UpstreamRefused) as caught:
        await _read(backend, endpoint(provider.url), call())
    assert len(caught.value.body()) < 1000


async def test_redirects_are_not_followed(backend: HttpBackend, provider: Provider) -> None:
    """An upstream cannot send our credentials elsewhere."""
    provider.then(whole(b"", 307, f"location: {provider.url}/elsewhere"))
    await _fails(backend, endpoint(provider.url), call())
    assert len(provider.received) == 1


async def test_overload_says_when(backend: HttpBackend, provider: Provider) -> None:
    """Retry-After of a 429 or 503 is read."""
    for status in (429, 503):
        provider.then(whole(b"{}", status, "retry-after: 7"))
        assert (await _fails(backend, endpoint(provider.url), call())).retry_after_seconds == 7.0


@pytest.mark.parametrize("announced", [True, False])
async def test_a_huge_answer_is_refused(backend: HttpBackend, provider: Provider, announced: bool) -> None:
    """Whether it says its length or not, an answer beyond the bound is not read to its end."""

    async def pouring(request: Received, peer: Peer) -> None:
        if announced:
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 10737418240\r\n\r\n")
        else:
            await peer.head()
        while True:
            await (peer.send(b"x" * 65536) if announced else peer.chunk(b"x" * 65536))

    provider.then(pouring)
    assert "too large" in (await _fails(backend, endpoint(provider.url), call())).message


async def test_a_gzip_bomb_is_bounded(backend: HttpBackend, provider: Provider) -> None:
    """Compression that nobody asked for does not get around the bound: the answer fails."""
    bomb = gzip.compress(b"\0" * 50_000_000)
    provider.then(whole(bomb, 200, "content-encoding: gzip"))
    await _fails(backend, endpoint(provider.url), call())


async def test_unasked_gzip_is_read(backend: HttpBackend, provider: Provider) -> None:
    """An upstream that compresses anyway is understood."""
    provider.then(whole(gzip.compress(WHOLE), 200, "content-encoding: gzip"))
    assert await _read(backend, endpoint(provider.url), call()) == WHOLE


async def test_interim_answers_are_skipped_and_bounded(backend: HttpBackend, provider: Provider) -> None:
    """A few 1xx are legal; a flood of them ends at the first-byte time."""

    async def some(request: Received, peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3)
        await plain(request, peer)

    async def flood(request: Received, peer: Peer) -> None:
        while True:
            await peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            await asyncio.sleep(0.001)

    provider.then(some, flood)
    assert await _read(backend, endpoint(provider.url), call()) == WHOLE
    await _fails(backend, endpoint(provider.url, first_byte_timeout_seconds=0.2), call())


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"\0" * 1000,
        b"",
    ],
)
async def test_garbage_is_a_failure(backend: HttpBackend, provider: Provider, garbage: bytes) -> None:
    """What is not HTTP is a failed upstream, not a crash."""

    async def talking(request: Received, peer: Peer) -> None:
        await peer.send(garbage)
        raise ConnectionError

    provider.then(talking)
    await _fails(backend, endpoint(provider.url), call())


@pytest.mark.parametrize("phase", ["before the head", "in the answer", "in a whole answer"])
async def test_cancelling_stops_the_upstream(backend: HttpBackend, provider: Provider, phase: str) -> None:
    """A call that is cancelled closes its connection at once, whatever it was waiting for."""

    async def started(request: Received, peer: Peer) -> None:
        if phase != "before the head":
            await peer.head(200, "text/event-stream" if phase == "in the answer" else "application/json")
            await peer.chunk(b": x\n\n")
        await silent(request, peer)

    provider.then(started)
    running = asyncio.create_task(_read(backend, endpoint(provider.url), call(stream=phase == "in the answer")))
    while not provider.received:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.02)
    running.cancel()
    async with asyncio.timeout(5):
        await provider.left.wait()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_leaving_a_stream_half_way_stops_the_upstream(backend: HttpBackend, provider: Provider) -> None:
    """Closing the context is enough: no task and no connection is left behind."""

    async def endless(request: Received, peer: Peer) -> None:
        await peer.head(200, "text/event-stream")
        while True:
            await peer.chunk(EVENTS.split(b"\n\n")[1] + b"\n\n")
            await asyncio.sleep(0.001)

    provider.then(endless)
    async with backend.open(endpoint(provider.url), call(stream=True), "req_1") as upstream:
        await anext(upstream.blocks())
    async with asyncio.timeout(5):
        await provider.left.wait()
    assert await _read(backend, endpoint(provider.url), call()) == WHOLE


async def test_calls_that_leave_at_random_leave_nothing_behind(backend: HttpBackend, provider: Provider) -> None:
    """Cancelled in every phase, calls free their connections, and answers never mix."""

    async def echo(request: Received, peer: Peer) -> None:
        await asyncio.sleep(0.001)
        await streamed([b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % request.json["tag"].encode()] * 5)(
            request, peer
        )

    async def one(number: int) -> None:
        tag = f"t{number:04d}"
        seen = await _read(backend, endpoint(provider.url), call(stream=True, tag=tag))
        assert seen.count(tag.encode()) == 5
        assert seen.count(b'"content":"t') == 5

    provider.default = echo
    before = len(asyncio.all_tasks())
    running = [asyncio.create_task(one(number)) for number in range(300)]
    for number, task in enumerate(running):
        if number % 3:
            asyncio.get_running_loop().call_later((number % 50) / 1000, task.cancel)
    results = await asyncio.gather(*running, return_exceptions=True)
    assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results), results
    assert sum(result is None for result in results) >= 100
    async with asyncio.timeout(5):
        while len(asyncio.all_tasks()) > before + 110:
            await asyncio.sleep(0.01)


async def test_a_link_that_swallows_delays_or_resets(backend: HttpBackend, provider: Provider) -> None:
    """Half-open links time out, slow ones are waited for, reset ones fail; afterwards the next call is fine."""
    async with fault_proxy(int(provider.url.rpartition(":")[2])) as link:
        place = endpoint(f"http://127.0.0.1:{link.port}", first_byte_timeout_seconds=0.3)
        link.delay_seconds, link.bytes_per_block = 0.001, 64
        assert await _read(backend, place, call(stream=True)) == EVENTS
        link.swallow = True
        assert isinstance(await _fails(backend, place, call()), UpstreamTimedOut)
        link.swallow = False
        provider.then(silent)
        asyncio.get_running_loop().call_later(0.1, link.reset_all)
        assert (await _fails(backend, place, call())).connection_lost
        link.refuse = True
        assert (await _fails(backend, place, call())).connection_lost
        link.refuse = False
        assert await _read(backend, place, call()) == WHOLE
