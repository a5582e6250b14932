"""The three servers of the request-path benchmark: a mock upstream, a bare relay, and (as a child) the real gateway.

`python -m benchmarks.servers mock PORT` and `python -m benchmarks.servers relay PORT UPSTREAM`.
The relay is the floor: uvicorn, starlette and aiohttp passing bytes on, with no other work at all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

CHUNKS = 100
KEEP_ALIVE_SECONDS = 60  # longer than any client's: one that closes first resets a request that is on its way
_TEXT = "The parcel left our house this morning and should be with you in two days. " * 8
_USAGE = {"prompt_tokens": 240, "completion_tokens": CHUNKS, "total_tokens": 240 + CHUNKS}


def _chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "mock", "choices": [choice]}
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def mock() -> Starlette:
    """An upstream that answers at once, whole or in 100 chunks."""
    message = {"role": "assistant", "content": _TEXT}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    whole = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "mock", "choices": [choice]}
    body = json.dumps({**whole, "usage": _USAGE}, separators=(",", ":")).encode()
    usage = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "mock", "choices": []}
    events = [_chunk({"role": "assistant", "content": ""})]
    events += [_chunk({"content": f"word{index} "}) for index in range(CHUNKS)]
    events += [_chunk({}, "stop"), b"data: " + json.dumps({**usage, "usage": _USAGE}).encode() + b"\n\n"]
    events += [b"data: [DONE]\n\n"]

    async def stream() -> AsyncIterator[bytes]:
        for event in events:
            yield event

    async def chat(request: Request) -> Response:
        if b'"stream":true' in await request.body():
            return StreamingResponse(stream(), media_type="text/event-stream")
        return Response(body, media_type="application/json")

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


def relay(upstream: str) -> Starlette:
    """Passes bytes on and does nothing else."""
    clients: list[aiohttp.ClientSession] = []

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as client:
            clients.append(client)
            yield

    async def chat(request: Request) -> Response:
        body = await request.body()
        headers = {"content-type": "application/json"}
        answer = await clients[0].post(f"{upstream}/v1/chat/completions", data=body, headers=headers)
        if answer.content_type != "text/event-stream":
            return Response(await answer.read(), media_type="application/json")

        async def stream() -> AsyncIterator[bytes]:
            async with answer:
                async for block in answer.content.iter_any():
                    yield block

        return StreamingResponse(stream(), media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])], lifespan=lifespan)


def main() -> None:
    """Run one of them until told to stop."""
    kind, port = sys.argv[1], int(sys.argv[2])
    app = mock() if kind == "mock" else relay(sys.argv[3])
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        log_level="warning",
        access_log=False,
        loop="uvloop",
        http="httptools",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


if __name__ == "__main__":
    main()
