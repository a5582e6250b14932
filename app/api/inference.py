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

from starlette.types import Receive, Scope, Send

from app.api.errors import failure
from app.api.leaving import LEAVING, Leaving
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
        leaving = scope.get("extensions", {}).get(LEAVING)
        client = Client(receive, leaving, self._max_body_bytes, self._body_timeout_seconds)
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
            _check_method(scope["method"])
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
        except Exception as exc:
            await opening.refuse(failure(exc, request.id))
            raise  # for the server's log
        finally:
            client.close()
            self._metrics.answered(self._operation.value, opening.status)


def _check_method(method: str) -> None:
    if method != "POST":
        raise MethodNotAllowed("This path takes POST only.", headers=((b"allow", b"POST"),))


class Client:
    """The caller's end of the connection: gives the body, notices when the caller is gone."""

    def __init__(
        self, receive: Receive, leaving: Leaving | None, max_body_bytes: int, body_timeout_seconds: float
    ) -> None:
        self._receive = receive
        self._leaving = leaving
        self._max_body_bytes = max_body_bytes
        self._body_timeout_seconds = body_timeout_seconds
        self._task = asyncio.current_task()
        self._watch: asyncio.Task[None] | None = None
        self._late = False
        self.gone = False

    async def read(self) -> bytes:
        """The whole body; afterwards the caller's leaving cancels the task that serves it."""
        timer = asyncio.get_running_loop().call_later(self._body_timeout_seconds, self._too_late)
        try:
            body = await self._whole()
        except asyncio.CancelledError:
            if not self._late or (self._task is not None and self._task.uncancel()):
                raise
            raise InvalidRequest("The body did not arrive in time.", code="request_timeout") from None
        finally:
            timer.cancel()
        if self._leaving is not None:
            self._leaving.tell(self._left)
        else:
            self._watch = asyncio.create_task(self._until_gone())
        return body

    def close(self) -> None:
        """Stop watching."""
        if self._leaving is not None:
            self._leaving.forget(self._left)
        if self._watch is not None:
            self._watch.cancel()

    async def _whole(self) -> bytes:
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                raise asyncio.CancelledError
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_body_bytes:
                raise BodyTooLarge(f"The body is larger than {self._max_body_bytes} bytes.")
            more = message.get("more_body", False)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _too_late(self) -> None:
        self._late = True
        if self._task is not None:
            self._task.cancel()

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left()

    def _left(self) -> None:
        self.gone = True
        if self._task is not None:
            self._task.cancel()


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
