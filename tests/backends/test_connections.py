"""Connections over real sockets: kept, closed, stopped for slow readers, secured; many at once."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import json
import ssl
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.backends import connections
from app.backends.connections import Address
from app.backends.provider import HttpBackend
from app.errors import UpstreamFailed, UpstreamRefused
from app.types import Call, Endpoint
from tests.backends.calls import call, endpoint
from tests.support.processes import free_port
from tests.support.provider import Peer, Provider, Received, answer, events, fake_provider, plain, whole

WHOLE = json.dumps(answer("gpt")).encode()
EVENTS = b"".join(events("gpt", include_usage=True))


@pytest.fixture
async def backend() -> AsyncIterator[HttpBackend]:
    """The client."""
    async with HttpBackend() as client:
        yield client


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """The service."""
    async with fake_provider() as running:
        yield running


async def _read(backend: HttpBackend, place: Endpoint, asked: Call) -> bytes:
    async with asyncio.timeout(20), backend.open(place, asked, "req_1") as upstream:
        return b"".join([block async for block in upstream.blocks()])


async def _until_left(provider: Provider) -> None:
    async with asyncio.timeout(5):
        await provider.left.wait()


@pytest.mark.parametrize(
    ("url", "host", "port", "secure", "authority", "path"),
    [
        ("http://a/v1/x", "a", 80, False, "a", "/v1/x"),
        ("https://a/v1/x", "a", 443, True, "a", "/v1/x"),
        ("https://a:8443/v1", "a", 8443, True, "a:8443", "/v1"),
        ("http://[::1]:80/v1", "::1", 80, False, "[::1]", "/v1"),
        ("http://bücher.example/ä b", "xn--bcher-kva.example", 80, False, "xn--bcher-kva.example", "/%C3%A4%20b"),
    ],
)
def test_an_address_is_read(url: str, host: str, port: int, secure: bool, authority: str, path: str) -> None:
    """Host, port and what the request says of them."""
    assert Address.of(url) == Address(host, port, secure, authority, path)


@pytest.mark.parametrize("url", ["ftp://a", "a:80", "http://", ""])
def test_what_is_no_address_is_refused(url: str) -> None:
    """Only http and https with a host."""
    with pytest.raises(ValueError, match="expected an http"):
        Address.of(url)


async def test_a_connection_that_was_free_too_long_is_closed(
    backend: HttpBackend, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It closes by itself, before the upstream does, and the next call gets a new one."""
    monkeypatch.setattr(connections, "KEEP_ALIVE_SECONDS", 0.05)
    served = asyncio.Event()

    async def answering(request: Received, peer: Peer) -> None:
        await plain(request, peer)
        await peer.until_closed()
        served.set()

    provider.then(answering)
    await _read(backend, endpoint(provider.url), call())
    async with asyncio.timeout(5):
        await served.wait()
    await _read(backend, endpoint(provider.url), call())
    assert provider.connections == 2


async def test_addresses_that_came_and_went_are_forgotten(
    backend: HttpBackend, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only those with open connections stay when many have been seen, and they are still used."""
    monkeypatch.setattr("app.backends.provider.MAX_PLACES", 1)
    await _read(backend, endpoint(provider.url), call())
    for number in range(5):
        with pytest.raises(UpstreamFailed):
            await _read(backend, endpoint(f"http://127.0.0.1:{free_port()}/{number}"), call())
    await _read(backend, endpoint(provider.url), call())
    assert provider.connections == 1


async def test_bytes_that_nobody_asked_for_close_the_connection(backend: HttpBackend, provider: Provider) -> None:
    """An answer that comes before its question never reaches the next caller."""

    async def eager(request: Received, peer: Peer) -> None:
        await plain(request, peer)
        await asyncio.sleep(0.05)
        await whole(b'{"of":"another"}')(request, peer)
        await peer.until_closed()
        raise ConnectionError

    provider.then(eager)
    assert await _read(backend, endpoint(provider.url), call()) == WHOLE
    await _until_left(provider)
    assert await _read(backend, endpoint(provider.url), call()) == WHOLE


async def test_a_slow_reader_stops_the_upstream(backend: HttpBackend, provider: Provider) -> None:
    """What is not read is not taken from the socket, and the upstream is not blamed for the silence."""
    sent = 0

    async def pouring(request: Received, peer: Peer) -> None:
        nonlocal sent
        await peer.head(200, "text/event-stream")
        for _ in range(4000):
            await peer.chunk(b": " + b"x" * 8192 + b"\n\n")
            sent += 8192
        await peer.chunk(b"data: [DONE]\n\n")
        await peer.chunk(b"")

    provider.then(pouring)
    place = endpoint(provider.url, idle_timeout_seconds=0.3, total_timeout_seconds=60.0)
    async with backend.open(place, call(stream=True), "req_1") as upstream:
        blocks = upstream.blocks()
        read = len(await anext(blocks))
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.5)  # longer than the idle time
        assert sent < 16 * 1024 * 1024
        async for block in blocks:
            read += len(block)
    assert read > 4000 * 8192


@pytest.mark.parametrize("ends", [True, False])
async def test_a_stream_that_is_left_at_its_last_event(backend: HttpBackend, provider: Provider, ends: bool) -> None:
    """The end of the body is awaited for a moment: if it comes the connection is used again, else it is closed."""
    go_on = asyncio.Event()

    async def lingering(request: Received, peer: Peer) -> None:
        await peer.head(200, "text/event-stream")
        await peer.chunk(EVENTS)
        await go_on.wait()
        if not ends:
            await peer.until_closed()
            raise ConnectionError
        await peer.chunk(b"")

    provider.then(lingering)
    async with backend.open(endpoint(provider.url), call(stream=True), "req_1") as upstream:
        assert await anext(upstream.blocks()) == EVENTS
        if ends:
            asyncio.get_running_loop().call_soon(go_on.set)
    go_on.set()
    if ends:
        await asyncio.sleep(0.02)
    else:
        await _until_left(provider)
    assert await _read(backend, endpoint(provider.url), call()) == WHOLE
    assert provider.connections == (1 if ends else 2)


async def test_a_refusal_in_the_middle_of_a_large_body(backend: HttpBackend) -> None:
    """An upstream that has read enough is heard although the body is not sent, and its connection is not kept."""
    taken: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 No\r\ncontent-length: 2\r\n\r\n{}")
        size = 0
        with suppress(ConnectionError):
            while block := await reader.read(65536):
                size += len(block)
        writer.close()
        taken.append(size)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    place = endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    for count in (1, 2):
        with pytest.raises(UpstreamRefused) as caught:
            await _read(backend, place, call(user="x" * 30_000_000))
        assert caught.value.status == 413
        async with asyncio.timeout(5):
            while len(taken) < count:
                await asyncio.sleep(0.005)
    server.close()
    assert max(taken) < 30_000_000


async def test_closing_the_client_ends_the_calls_that_run(provider: Provider) -> None:
    """Nobody waits for an answer that cannot come any more."""
    reached = asyncio.Event()

    async def silent(_request: Received, peer: Peer) -> None:
        reached.set()
        await peer.until_closed()

    provider.default = silent
    async with HttpBackend() as client:
        running = asyncio.create_task(_read(client, endpoint(provider.url), call()))
        await reached.wait()
    with pytest.raises(UpstreamFailed):
        await running


async def test_a_header_cannot_be_broken_in_two(backend: HttpBackend, provider: Provider) -> None:
    """A configured key with a line break would be another header; it is refused before anything is sent."""
    place = endpoint(provider.url, headers={"authorization": "Bearer x\r\nhost: elsewhere"})
    with pytest.raises(ValueError, match="line break"):
        await _read(backend, place, call())
    assert not provider.received


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("deflate", zlib.compress(WHOLE)), ("GZip", gzip.compress(WHOLE)), ("identity", WHOLE)],
)
async def test_known_encodings_are_read(backend: HttpBackend, provider: Provider, encoding: str, body: bytes) -> None:
    """Those that the standard library knows."""
    provider.then(whole(body, 200, f"content-encoding: {encoding}"))
    assert await _read(backend, endpoint(provider.url), call()) == WHOLE


@pytest.mark.parametrize(
    ("encoding", "body"), [("br", b"x"), ("gzip", b"not gzip"), ("gzip", gzip.compress(WHOLE)[:-4]), ("gzip", b"")]
)
async def test_other_encodings_fail(backend: HttpBackend, provider: Provider, encoding: str, body: bytes) -> None:
    """Unknown, wrong, or cut short: never passed on as an answer."""
    provider.then(whole(body, 200, f"content-encoding: {encoding}"))
    with pytest.raises(UpstreamFailed):
        await _read(backend, endpoint(provider.url), call())


async def test_a_compressed_stream_is_read_event_by_event(backend: HttpBackend, provider: Provider) -> None:
    """Each flushed event comes out at once."""
    packer = zlib.compressobj(wbits=31)

    async def packed(_request: Received, peer: Peer) -> None:
        await peer.head(200, "text/event-stream", "content-encoding: gzip")
        for event in events("gpt", include_usage=True):
            await peer.chunk(packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH))
        await peer.chunk(packer.flush())
        await peer.chunk(b"")

    provider.then(packed)
    assert await _read(backend, endpoint(provider.url), call(stream=True)) == EVENTS


async def test_a_name_with_several_addresses_is_tried_until_one_answers(
    backend: HttpBackend, provider: Provider
) -> None:
    """`localhost` may be ::1 first, where nobody listens."""
    assert await _read(backend, endpoint(provider.url.replace("127.0.0.1", "localhost")), call()) == WHOLE


async def test_a_name_that_nobody_knows_is_a_lost_connection(backend: HttpBackend) -> None:
    """Another target may answer; the name is not told."""
    with pytest.raises(UpstreamFailed) as caught:
        await _read(backend, endpoint("http://nobody.invalid"), call())
    assert caught.value.connection_lost
    assert "nobody" not in caught.value.message


async def test_a_thousand_streams_at_once(backend: HttpBackend, provider: Provider) -> None:
    """Each gets its own answer, whole."""

    async def tagged(request: Received, peer: Peer) -> None:
        await peer.head(200, "text/event-stream")
        for _ in range(5):
            await peer.chunk(b"data: %s\n\n" % request.json["user"].encode())
            await asyncio.sleep(0)
        await peer.chunk(b"")

    async def one(number: int) -> bytes:
        return await _read(backend, endpoint(provider.url), call(stream=True, user=f"user-{number}"))

    provider.default = tagged
    found = await asyncio.gather(*map(one, range(1000)))
    assert found == [b"data: user-%d\n\n" % number * 5 for number in range(1000)]


@pytest.mark.parametrize(("trusted", "name"), [(True, "127.0.0.1"), (False, "127.0.0.1"), (True, "10.0.0.1")])
async def test_a_secure_upstream_must_prove_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool, name: str
) -> None:
    """Only a certificate of a trusted authority, for the address that is called, is answered to."""
    certificate, key = _certificate(tmp_path, name)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with _secure(certificate, key) as url, HttpBackend() as backend:
        if trusted and name == "127.0.0.1":
            for stream in (False, True):
                found = await _read(backend, endpoint(url), call(stream=stream))
                assert found == (EVENTS if stream else WHOLE)
            return
        with pytest.raises(UpstreamFailed) as caught:
            await _read(backend, endpoint(url), call())
        assert caught.value.connection_lost


@asynccontextmanager
async def _secure(certificate: Path, key: Path) -> AsyncIterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(Provider().serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def _certificate(folder: Path, address: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = folder / "cert.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, secret
