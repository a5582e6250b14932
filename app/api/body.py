"""Request bodies, bounded in size and in time before anything looks at them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Message

from app.errors import BodyTooLarge, InvalidRequest

MAX_BODY_BYTES = 1024 * 1024
BODY_SECONDS = 30.0
LATE = "The body did not arrive in time."
BROKEN = "The body did not arrive whole."


async def with_body(request: Request, *, max_bytes: int = MAX_BODY_BYTES) -> Request:
    """The request with its whole body read; raises BodyTooLarge or InvalidRequest."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > max_bytes:
                    raise BodyTooLarge(f"The body is larger than {max_bytes} bytes.")
                parts.append(part)
    except TimeoutError:
        raise InvalidRequest(LATE, code="request_timeout") from None
    except ClientDisconnect:
        raise InvalidRequest(BROKEN) from None
    told: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

    async def read() -> Message:
        return told.pop() if told else await request.receive()

    return Request(request.scope, read)


async def streamed(request: Request, *, idle_seconds: float = BODY_SECONDS) -> AsyncIterator[bytes]:
    """The body as it comes, for those who count it themselves; raises InvalidRequest when it stalls or breaks off."""
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(idle_seconds):
                part = await anext(stream, None)
        except TimeoutError:
            raise InvalidRequest(LATE, code="request_timeout") from None
        except ClientDisconnect:
            raise InvalidRequest(BROKEN) from None
        if part is None:
            return
        if part:
            yield part
