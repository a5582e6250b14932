"""A fake OpenAI-compatible service on a raw socket: it says exactly the bytes that a test scripts, when it is told to.

A script is an async function that gets the request and the connection. Without one the provider answers like a plain,
well-behaved service. Every request is kept; `gone` counts the connections that the other side closed in mid-answer.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

WORDS = ("Hello", " there", ".")


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body, which must be an object."""
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass(frozen=True, slots=True)
class Peer:
    """The connection that a script writes on."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Write and flush."""
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: int = 200, content_type: str = "application/json", *lines: str) -> None:
        """A status line and headers for a chunked body."""
        more = "".join(f"{line}\r\n" for line in lines)
        await self.send(
            f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n{more}\r\n".encode()
        )

    async def chunk(self, data: bytes) -> None:
        """One chunk of a chunked body; an empty one ends it."""
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def until_closed(self) -> None:
        """Wait until the other side closes."""
        with suppress(ConnectionError):
            while await self.reader.read(65536):
                pass

    def reset(self) -> None:
        """Close with a TCP reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # SO_LINGER, on, 0 s
        self.writer.transport.abort()


Script = Callable[[Received, Peer], Awaitable[None]]


@dataclass(slots=True)
class Provider:
    """The running service."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    scripts: deque[Script] = field(default_factory=deque)
    default: Script | None = None
    connections: int = 0
    gone: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def then(self, *scripts: Script) -> None:
        """The next requests are answered by these, one each."""
        self.scripts.extend(scripts)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests."""
        self.connections += 1
        try:
            while (request := await _read(reader)) is not None:
                self.received.append(request)
                script = self.scripts.popleft() if self.scripts else self.default or plain
                await script(request, Peer(reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            self.gone += 1
            self.left.set()
        finally:
            writer.close()


@asynccontextmanager
async def fake_provider(default: Script | None = None, *, port: int = 0) -> AsyncIterator[Provider]:
    """Serve on loopback until the context ends, on a free port if none is named."""
    provider = Provider(default=default)
    open_connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_connections.add(task)
        try:
            await provider.serve(reader, writer)
        finally:
            open_connections.discard(task)

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield provider
    finally:
        server.close()
        for task in list(open_connections):
            task.cancel()
        await asyncio.gather(*open_connections, return_exceptions=True)


async def plain(request: Received, peer: Peer) -> None:
    """A well-behaved answer, streamed if asked for."""
    if request.json.get("stream"):
        await peer.head(200, "text/event-stream; charset=utf-8")
        for event in events(request.json["model"], include_usage=True):
            await peer.chunk(event)
        await peer.chunk(b"")
        return
    await whole(json.dumps(answer(request.json["model"])).encode())(request, peer)


def whole(body: bytes, status: int = 200, *lines: str, content_type: str = "application/json") -> Script:
    """A script that answers this body."""

    async def script(request: Received, peer: Peer) -> None:
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n"
        await peer.send(head.encode() + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body)

    return script


def streamed(blocks: Sequence[bytes], *, end: bool = True) -> Script:
    """A script that sends these blocks as an event stream; without `end` it then resets the connection."""

    async def script(request: Received, peer: Peer) -> None:
        await peer.head(200, "text/event-stream")
        for block in blocks:
            await peer.chunk(block)
        if not end:
            await asyncio.sleep(0.01)  # a reset overtakes what the other side has not read yet
            peer.reset()
            raise ConnectionError
        await peer.chunk(b"")

    return script


async def silent(request: Received, peer: Peer) -> None:
    """Never answers; ends when the other side leaves."""
    await peer.until_closed()
    raise ConnectionError


def answer(model: str, words: Sequence[str] = WORDS) -> dict[str, Any]:
    """A whole chat answer."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "".join(words)}, "finish_reason": "stop"}],
        "usage": usage(len(words)),
    }


def usage(completion: int) -> dict[str, int]:
    """A usage block with a prompt of five tokens."""
    return {"prompt_tokens": 5, "completion_tokens": completion, "total_tokens": 5 + completion}


def events(model: str, words: Sequence[str] = WORDS, *, include_usage: bool) -> list[bytes]:
    """The same answer as OpenAI streams it."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    more = {"usage": None} if include_usage else {}
    deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": word}, None) for word in words]
    deltas += [({}, "stop")]
    chunks = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more} for delta, reason in deltas
    ]
    if include_usage:
        chunks.append({**head, "choices": [], "usage": usage(len(words))})
    return [b"data: %s\n\n" % json.dumps(chunk, separators=(",", ":")).encode() for chunk in chunks] + [
        b"data: [DONE]\n\n"
    ]


async def _read(reader: asyncio.StreamReader) -> Received | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as exc:
        if exc.partial:
            raise
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if line)
    method, path, _ = first.split(" ")
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    if headers.get("transfer-encoding") == "chunked":
        body = await _chunked(reader)
    return Received(method, path, headers, body)


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readline()).strip(), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return body
