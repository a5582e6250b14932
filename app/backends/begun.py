"""The moment until which another target may be tried: the first part of an answer is here, and it is not an error.

A 200 that breaks off at once, says nothing, or says `error` first is a failure like any other. From here on the caller
has bytes, so whatever happens later is told to the caller and to the breaker, not hidden by a retry.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Self

import msgspec

from app.backends.metering import NULL, UNREADABLE, decode_event, says_error
from app.backends.relay import data_of, split
from app.errors import UpstreamFailed, UpstreamRefused
from app.interfaces import Upstream
from app.types import Endpoint

MAX_PREFIX_BYTES = 64 * 1024


class _Error(msgspec.Struct):
    code: int | str | None = None


class _Envelope(msgspec.Struct):
    error: msgspec.Raw = NULL


_ENVELOPE = msgspec.json.Decoder(_Envelope)


class Begun:
    """An open answer whose first bytes have been seen; implements `app.interfaces.Upstream`."""

    def __init__(self, upstream: Upstream, first: bytes, rest: AsyncIterator[bytes], broke: Callable[[], None]) -> None:
        self.status = upstream.status
        self.content_type = upstream.content_type
        self.endpoint: Endpoint = upstream.endpoint
        self._first = first
        self._rest = rest
        self._broke = broke

    def blocks(self) -> AsyncIterator[bytes]:
        """The body's bytes as they arrive; raises UpstreamFailed when it breaks off or idles too long."""
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        try:
            return await anext(self._rest)
        except UpstreamFailed:
            self._broke()
            raise


async def begin(upstream: Upstream, *, stream: bool, broke: Callable[[], None]) -> Begun:
    """Wait for the first part of the answer; raises UpstreamFailed or UpstreamRefused if it is none."""
    blocks = upstream.blocks()
    first = await (_first_event(blocks) if stream else _whole(blocks))
    return Begun(upstream, first, blocks, broke)


async def _first_event(blocks: AsyncIterator[bytes]) -> bytes:
    prefix = b""
    async for block in blocks:
        prefix += block
        if len(prefix) > MAX_PREFIX_BYTES or _starts(prefix):
            return prefix
    if not _starts(prefix + b"\n\n"):
        raise UpstreamFailed("The upstream ended its answer before it began.")
    return prefix


def _starts(prefix: bytes) -> bool:
    """Whether a whole event is here that a client can read; raises if it is an error."""
    for event in split(prefix):
        data = data_of(event) if event.endswith((b"\n\n", b"\n\r\n")) else None
        if data is None:
            continue
        if data == b"[DONE]":
            return True
        chunk = decode_event(data)
        if chunk is not None and chunk.failed:
            raise _as_error(data)
        if chunk is not None:
            return True
    return False


async def _whole(blocks: AsyncIterator[bytes]) -> bytes:
    body = b"".join([block async for block in blocks])
    try:
        envelope = _ENVELOPE.decode(body)
    except UNREADABLE:
        raise UpstreamFailed("The upstream's answer is not a JSON object.") from None
    if says_error(envelope.error):
        raise _as_error(body)
    return body


def _as_error(body: bytes) -> UpstreamFailed | UpstreamRefused:
    """An error under status 200: the caller's own fault when its code is a client error's, as vLLM says it."""
    try:
        error = msgspec.json.decode(_ENVELOPE.decode(body).error, type=_Error)
    except UNREADABLE:
        error = _Error()
    if error.code in (400, 413, 415, 422):
        return UpstreamRefused(int(error.code), body)
    return UpstreamFailed("The upstream answered with an error.")
