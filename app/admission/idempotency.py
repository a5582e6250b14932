"""Idempotency-Key with Stripe's semantics: one key and one body are one call, however often they are sent.

The first call runs; whoever sends the same key and body again meets 409 while it runs and its saved answer for a day
afterwards. The same key with another body is 400. A call that was refused or failed before it answered leaves the key
free, for it cost nothing. Race removed: a client that loses its connection and retries would pay twice; here the first
call runs on without it, in a task of its own, and the retry finds its answer.

A running call renews its mark; when its gateway is killed, the mark ends within seconds and a retry runs anew.
Fail mode: closed. Without Redis a call with a key is refused with 503, since nothing could be promised about it. Calls
without the header pass through untouched.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import msgspec
from redis.exceptions import ResponseError

from app.errors import Conflict, GatewayError, InvalidRequest, Unavailable
from app.storage.redis import RedisDown, RedisStore, Script
from app.types import Principal, Reply, Request

Answer = Callable[[Request], AbstractAsyncContextManager[Reply]]
Authenticate = Callable[[Mapping[bytes, bytes]], Awaitable[Principal]]

HEADER = b"idempotency-key"
MAX_KEY_BYTES = 255
MAX_SAVED_BYTES = 1024 * 1024
MARK_MS = 15_000
RENEW_SECONDS = 5.0
FREED_SECONDS = 0.1  # how long a refusal waits for its key to be freed; while Redis is away it is told all the same
AGAIN_SECONDS = 0.1
ERROR_EVENT = b'data: {"error"'  # what a stream that broke off ends with: no answer to be given again
KEPT_HEADERS = (
    b"content-type", b"x-cache", b"x-tunegate-variant", b"x-tunegate-adapter", b"x-tunegate-max-tokens"
)  # fmt: skip

# KEYS 1 the idempotency key   ARGV 1 our mark  2 its time in ms. Returns what was there before us, or nothing.
_BEGIN = Script("""
local there = redis.call('GET', KEYS[1])
if there then return there end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return nil
""")
# KEYS 1   ARGV 1 our mark  2 what replaces it ('' nothing)  3 time in ms. Only while the mark is still ours.
_REPLACE = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
""")


class _Stored(msgspec.Struct, array_like=True, frozen=True):
    """What lies under a key: a running call, or (with `status`) its answer; `body` None was too large to keep."""

    fingerprint: bytes
    request_id: str
    status: int = 0
    stream: bool = False
    headers: list[tuple[bytes, bytes]] = []
    body: bytes | None = None


_DECODER = msgspec.msgpack.Decoder(_Stored)


@dataclass(slots=True)
class _Running:
    """An answer that is being made: kept block by block, and followed by its caller for as long as there is one."""

    head: asyncio.Future[Reply]
    blocks: list[bytes] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False
    error: BaseException | None = None

    def add(self, block: bytes) -> None:
        self.blocks.append(block)
        self.news.set()

    def end(self, error: BaseException | None = None) -> None:
        self.over, self.error = True, error
        self.news.set()
        if not self.head.done():
            self.head.set_exception(error or Unavailable("The call ended without an answer."))
            self.head.exception()  # whoever waited may be gone

    async def body(self) -> AsyncIterator[bytes]:
        at = 0
        while True:
            self.news.clear()
            for block in self.blocks[at:]:
                at += 1
                yield block
            if self.over and at == len(self.blocks):
                if self.error is not None:
                    raise self.error
                return
            await self.news.wait()


class Idempotency:
    """Wraps the answering of requests."""

    def __init__(
        self, store: RedisStore, authenticate: Authenticate, answer: Answer, *, keep_seconds: int = 86_400
    ) -> None:
        self._store = store
        self._authenticate = authenticate
        self._answer = answer
        self._keep_ms = keep_seconds * 1000
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, request: Request) -> AbstractAsyncContextManager[Reply]:
        """The answer to a request, made now or before."""
        name = request.headers.get(HEADER)
        return self._answer(request) if name is None else self._once(request, name)

    async def drain(self) -> None:
        """Wait for calls whose callers have gone, as the server's grace allows; then give them up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @asynccontextmanager
    async def _once(self, request: Request, name: bytes) -> AsyncIterator[Reply]:
        if not 1 <= len(name) <= MAX_KEY_BYTES:
            raise InvalidRequest(f"Idempotency-Key: expected 1 to {MAX_KEY_BYTES} characters", param="Idempotency-Key")
        principal = await self._authenticate(request.headers)
        body = await request.read()
        key, mark = _key(principal, name), _Stored(_fingerprint(request, body), request.id)
        found = await self._begin(key, mark)
        if found is not None:
            yield _again(found, mark)
            return
        running = _Running(asyncio.get_running_loop().create_future())
        task = asyncio.create_task(self._run(msgspec.structs.replace(request, read=_given(body)), key, mark, running))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        yield await asyncio.shield(running.head)

    async def _begin(self, key: str, mark: _Stored) -> _Stored | None:
        try:
            there = await self._store.run(_BEGIN, [key], [msgspec.msgpack.encode(mark), MARK_MS])
        except (RedisDown, ResponseError) as exc:
            raise Unavailable("The Idempotency-Key cannot be checked right now; try again shortly.") from exc
        return None if there is None else _DECODER.decode(there)

    async def _run(self, request: Request, key: str, mark: _Stored, running: _Running) -> None:
        renewing = asyncio.create_task(self._renew(key, mark))
        try:
            async with self._answer(request) as reply:
                kept = [header for header in reply.headers if header[0] in KEPT_HEADERS]
                running.head.set_result(Reply(reply.status, reply.headers, running.body(), reply.stream))
                async for block in reply.body:
                    running.add(block)
            body = b"".join(running.blocks)
            done = msgspec.structs.replace(
                mark,
                status=reply.status,
                stream=reply.stream,
                headers=kept,
                body=body if len(body) <= MAX_SAVED_BYTES else None,
            )
            broke = reply.stream and ERROR_EVENT in b"".join(running.blocks[-1:])
            await self._replace(key, mark, b"" if broke else msgspec.msgpack.encode(done))
            running.end()
        except BaseException as exc:
            freed = asyncio.create_task(self._replace(key, mark, b""))
            await asyncio.wait({freed}, timeout=FREED_SECONDS)  # a retry that comes at once must find the key free
            running.end(exc if isinstance(exc, GatewayError) else Unavailable("The call was given up; try again."))
            await asyncio.shield(freed)
            if not isinstance(exc, GatewayError):
                raise
        finally:
            renewing.cancel()

    async def _renew(self, key: str, mark: _Stored) -> None:
        ours = msgspec.msgpack.encode(mark)
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._store.run(_REPLACE, [key], [ours, ours, MARK_MS])
            except (RedisDown, ResponseError):
                continue

    async def _replace(self, key: str, mark: _Stored, value: bytes) -> None:
        """Say it until it is heard, but not for longer than the mark would stand: then it is no longer ours."""
        ours = msgspec.msgpack.encode(mark)
        for _ in range(round(MARK_MS / 1000 / AGAIN_SECONDS)):
            try:
                await self._store.run(_REPLACE, [key], [ours, value, self._keep_ms])
            except (RedisDown, ResponseError):
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                return


def _key(principal: Principal, name: bytes) -> str:
    digest = hashlib.sha256(f"{principal.key_id}\x00".encode() + name).hexdigest()
    return f"tg:{{{principal.tenant_id}}}:idem:{digest}"


def _fingerprint(request: Request, body: bytes) -> bytes:
    return hashlib.sha256(request.operation.value.encode() + b"\x00" + body).digest()


def _given(body: bytes) -> Callable[[], Awaitable[bytes]]:
    async def read() -> bytes:
        return body

    return read


def _again(found: _Stored, mark: _Stored) -> Reply:
    if found.fingerprint != mark.fingerprint:
        raise InvalidRequest(
            "This Idempotency-Key was used with another request. Use a new key for a new request.",
            param="Idempotency-Key",
            code="idempotency_key_reused",
        )
    if not found.status:
        raise Conflict("A request with this Idempotency-Key is still running; try again shortly.")
    if found.body is None:
        raise Conflict("The answer to this Idempotency-Key was too large to keep; use a new key to ask again.")
    headers = [*found.headers, (b"idempotent-replayed", b"true"), (b"x-original-request-id", found.request_id.encode())]
    return Reply(found.status, headers, _whole(found.body), found.stream)


async def _whole(body: bytes) -> AsyncIterator[bytes]:
    yield body
