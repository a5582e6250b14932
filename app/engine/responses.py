"""ASGI responses that notice the client leaving, and that can be cut on purpose.

A client that goes away cancels the work at once, which frees its sequences. A dropped connection is a response left
unfinished: uvicorn then closes the socket, and the client sees the cut.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")
_STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8")]


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Await `work`, or cancel it when the client disconnects first (then None). The body must have been read."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for pending in (task, gone):
            pending.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


class EventStream(Response):
    """A stream of server-sent events; with `drop_after` it breaks off after that many."""

    def __init__(self, events: AsyncGenerator[bytes, None], *, drop_after: int | None = None) -> None:
        super().__init__()
        self._events = events
        self._drop_after = drop_after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  ASGI's signature
        """Send until the end, the cut, or the client's leaving."""
        await unless_gone(receive, self._pump(send))

    async def _pump(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        sent = 0
        async with aclosing(self._events) as events:
            async for event in events:
                if sent == self._drop_after:
                    return
                await send({"type": "http.response.body", "body": event, "more_body": True})
                sent += 1
        if self._drop_after is None:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class CutResponse(Response):
    """A whole answer that announces its length and breaks off in its middle."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  ASGI's signature
        """Send the head and half of the body."""
        body = bytes(self.body)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
