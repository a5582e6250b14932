"""The inference endpoints as plain ASGI: one request in, the pipeline, one reply out.

Plain ASGI because it is the request path: a framework's endpoint costs more than all stages together
(`docs/performance.md`). A client that leaves cancels its own request task at once, at any phase: while the body is
read, while the upstream thinks, while the answer streams.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from starlette.types import Message, Receive, Scope, Send

from app.errors import BodyTooLarge, GatewayError, InvalidRequest, MethodNotAllowed
from app.observability.metrics import Metrics
from app.types import Operation, Reply, Request

CLIENT_CLOSED = 499  # nginx's status for a client that went away before it had one
Answer = Callable[[Request], AbstractAsyncContextManager[Reply]]


class Inference:
    """One inference endpoint."""

    def __init__(
        self,
        operation: Operation,
        answer: Answer,
        *,
        new_id: Callable[[], str],
        metrics: Metrics,
        max_body_bytes: int,
        body_timeout_seconds: float,
    ) -> None:
        self._operation = operation
        self._answer = answer
        self._new_id = new_id
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._body_timeout_seconds = body_timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; every refusal is OpenAI's error envelope."""
        started = time.perf_counter()
        client = Client(receive, self._max_body_bytes, self._body_timeout_seconds)
        request = Request(
            id=self._new_id(),
            operation=self._operation,
            headers=dict(scope["headers"]),
            read=client.read,
            received_at=time.time(),
        )
        scope["request_id"] = request.id
        opening = Opening(send, request.id, started, client.close)
        self._metrics.arrived()
        try:
            if scope["method"] != "POST":
                allow = ((b"allow", b"POST"),)
                raise MethodNotAllowed("This path takes POST only.", headers=allow)
            async with self._answer(request) as reply:
                await opening.reply(reply)
        except GatewayError as exc:
            await opening.refuse(exc)
        except asyncio.CancelledError:
            if not client.gone:
                raise
            opening.given_up()
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
        finally:
            client.close()
            self._metrics.answered(self._operation.value, opening.status)


class Client:
    """The caller's end of the connection: gives the body, notices when the caller is gone."""

    def __init__(self, receive: Receive, max_body_bytes: int, body_timeout_seconds: float) -> None:
        self._receive = receive
        self._max_body_bytes = max_body_bytes
        self._body_timeout_seconds = body_timeout_seconds
        self._watch: asyncio.Task[None] | None = None
        self.gone = False

    async def read(self) -> bytes:
        """The whole body; afterwards the caller's leaving cancels the task that called this."""
        message = await self._next()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            body = await self._rest(body)
        if len(body) > self._max_body_bytes:
            raise BodyTooLarge(f"The body is larger than {self._max_body_bytes} bytes.")
        task = asyncio.current_task()
        if task is not None:
            self._watch = asyncio.create_task(self._until_gone(task))
        return body

    def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.cancel()

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout(self._body_timeout_seconds):
                message = await self._receive()
        except TimeoutError:
            raise InvalidRequest("The body did not arrive in time.", code="request_timeout") from None
        if message["type"] == "http.disconnect":
            self.gone = True
            raise asyncio.CancelledError
        return message

    async def _rest(self, body: bytes) -> bytes:
        parts, size, deadline = [body], len(body), time.monotonic() + self._body_timeout_seconds
        while True:
            if size > self._max_body_bytes:
                raise BodyTooLarge(f"The body is larger than {self._max_body_bytes} bytes.")
            if time.monotonic() > deadline:
                raise InvalidRequest("The body did not arrive in time.", code="request_timeout")
            message = await self._next()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if not message.get("more_body"):
                return b"".join(parts)

    async def _until_gone(self, task: asyncio.Task[None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        task.cancel()


class Opening:
    """The response side: sends one head and the body, or one refusal, never both."""

    def __init__(self, send: Send, request_id: str, started: float, last: Callable[[], None]) -> None:
        self._send = send
        self._last = last  # called before the last bytes: a server calls a client gone once it has its whole answer
        self._request_id = request_id.encode()
        self._started = started
        self._begun = False
        self.status = 500  # what the application says if nothing comes of this

    async def reply(self, reply: Reply) -> None:
        """Send head and body as they come."""
        headers = reply.headers
        if reply.stream:
            headers += [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
            await self._head(reply.status, headers)
            async for block in reply.body:
                await self._send({"type": "http.response.body", "body": block, "more_body": True})
            self._last()
            await self._send({"type": "http.response.body", "body": b""})
            return
        body = b"".join([block async for block in reply.body])
        headers.append((b"content-length", str(len(body)).encode()))
        self._last()
        await self._head(reply.status, headers)
        await self._send({"type": "http.response.body", "body": body})

    async def refuse(self, error: GatewayError) -> None:
        """Send the error envelope, unless an answer has begun: then only the end of the connection can tell."""
        if self._begun:
            return
        body = error.body()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *error.headers,
        ]
        self._last()
        await self._head(error.status, headers)
        await self._send({"type": "http.response.body", "body": body})

    def given_up(self) -> None:
        """The caller has gone before there was anything to send."""
        if not self._begun:
            self.status = CLIENT_CLOSED

    async def _head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._begun, self.status = True, status
        took = str(int((time.perf_counter() - self._started) * 1000)).encode()
        headers += [
            (b"x-request-id", self._request_id),
            (b"openai-processing-ms", took),
            (b"openai-version", b"2020-10-01"),
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
