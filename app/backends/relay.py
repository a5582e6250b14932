"""Server-sent events passed on as bytes: whole events only, for any split of the input; nothing is re-encoded.

The usual event costs a few substring searches; JSON is decoded only for events that may end, refuse or count the
answer. That is safe because a quote inside a JSON string is escaped: `"usage"` in the bytes is a key or a whole string.
Invariant: the output is a function of the input's bytes, not of how they were cut into blocks. Input that is not what
it should be is passed on; only an event without end raises UpstreamFailed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from app.backends.metering import Emitted, decode_event, read_usage, valid_usage
from app.errors import GatewayError, UpstreamFailed
from app.interfaces import TokenCounter
from app.types import Usage

__all__ = ["Relay", "error_event", "read_usage", "renamed"]

MAX_EVENT_BYTES = 1024 * 1024
_EVENT = re.compile(rb"\n\r?\n")
_NULL_USAGE = re.compile(rb',[ \t]*"usage"[ \t]*:[ \t]*null|"usage"[ \t]*:[ \t]*null[ \t]*,[ \t]*')
_USAGE_KEY = (b'"usage"',)
_USAGE_OBJECT = (b'"usage":{', b'"usage": {')
_DECISIVE = (b"[DONE]", b'"error"', b'"finish_reason":"', b'"finish_reason": "')


class Relay:
    """One stream on its way to the caller; feed it blocks, then finish it."""

    def __init__(self, *, include_usage: bool, upstream_model: str, public_model: str) -> None:
        self.done = False
        self.failed = False
        self.finish_reasons: list[str] = []
        self._include_usage = include_usage
        self._marks = (*_DECISIVE, *(_USAGE_OBJECT if include_usage else _USAGE_KEY))
        self._names = _names(upstream_model, public_model)
        self._tail = bytearray()
        self._usage: Usage | None = None
        self._emitted = Emitted()

    @property
    def complete(self) -> bool:
        """Whether the answer came to its proper end: nothing failed, and it said that it was finished."""
        return not self.failed and (self.done or bool(self.finish_reasons))

    @property
    def usage(self) -> Usage | None:
        """What the upstream counted, if it said so plausibly."""
        return self._usage

    def feed(self, block: bytes) -> bytes:
        """The bytes that may go to the caller now: every event that is complete, none that is not."""
        if self.done:
            return b""
        if not self._tail and block.endswith(b"\n\n"):
            return self._pass_on(block)
        start = max(0, len(self._tail) - 2)
        self._tail += block
        end = _last_border(self._tail, start)
        events = bytes(self._tail[:end])
        del self._tail[:end]
        if len(self._tail) > MAX_EVENT_BYTES:
            raise UpstreamFailed("The upstream sent an event without end.")
        return self._pass_on(events) if events else b""

    def finish(self) -> bytes:
        """The last event if it only lacks its blank line; half an event is never passed on."""
        rest = bytes(self._tail).rstrip(b"\r\n")
        self._tail.clear()
        if self.done or not rest:
            return b""
        data = data_of(rest)
        if data != b"[DONE]" and (data is None or decode_event(data) is None):
            return b""
        return self._pass_on(rest + b"\n\n")

    def usage_or_estimate(self, prompt_estimate: int, count_tokens: TokenCounter) -> Usage:
        """As counted upstream, even if zero; else from what was relayed, never less than one token an event."""
        if self._usage is not None:
            return self._usage
        text, events = self._emitted.total()
        completion = max(events, count_tokens(text)) if text else events
        return Usage(prompt_tokens=prompt_estimate, completion_tokens=completion, estimated=True)

    def _pass_on(self, events: bytes) -> bytes:
        for old, new in self._names:
            events = events.replace(old, new)
        if not self._include_usage:
            events = events.replace(b',"usage":null', b"")  # OpenAI says so in every chunk: the quick way
        marked = _first_of(self._marks, events)
        if marked is not None:
            start = _last_border(events, 0, marked)
            events = events[:start] + b"".join(map(self._inspect, split(events[start:])))
        self._emitted.add(events)
        return events

    def _inspect(self, event: bytes) -> bytes:
        if self.done:
            return b""
        if _first_of(self._marks, event) is None:
            return event
        data = data_of(event)
        if data == b"[DONE]":
            self.done = True
            return event
        chunk = None if data is None else decode_event(data)
        if chunk is None:
            return event
        self.failed = self.failed or chunk.failed
        self.finish_reasons += chunk.finish_reasons
        if chunk.usage is not None:
            self._usage = valid_usage(chunk.usage) or self._usage
        if self._include_usage:
            return event
        if chunk.usage is not None and chunk.is_extra:
            return event[: len(event) - len(event.lstrip(b"\r\n"))]
        return _NULL_USAGE.sub(b"", event) if chunk.usage is None else event


def error_event(error: GatewayError) -> bytes:
    """OpenAI's way to fail after the head is sent: one event that the SDKs raise as an error."""
    body = error.body()
    if b"\n" in body or b"\r" in body:
        body = msgspec.json.format(body, indent=-1)
    return b"data: " + body + b"\n\n"


def renamed(body: bytes, upstream_model: str, public_model: str) -> bytes:
    """A whole answer under the name that the caller asked for."""
    for old, new in _names(upstream_model, public_model):
        body = body.replace(old, new, 1)
    return body


def _names(upstream_model: str, public_model: str) -> tuple[tuple[bytes, bytes], ...]:
    if upstream_model == public_model:
        return ()
    old, new = msgspec.json.encode(upstream_model), msgspec.json.encode(public_model)
    return ((b'"model":' + old, b'"model":' + new), (b'"model": ' + old, b'"model": ' + new))


def _first_of(marks: tuple[bytes, ...], events: bytes) -> int | None:
    """Where the first of these marks is."""
    places = [place for mark in marks if (place := events.find(mark)) >= 0]
    return min(places) if places else None


def _last_border(buffer: bytes | bytearray, start: int, end: int | None = None) -> int:
    """Where the last event that is whole between these two places ends; 0 if there is none."""
    plain, carriage = buffer.rfind(b"\n\n", start, end), buffer.rfind(b"\n\r\n", start, end)
    return max(plain + 2 if plain >= 0 else 0, carriage + 3 if carriage >= 0 else 0)


def split(events: bytes) -> Iterator[bytes]:
    """Events with their borders; what follows the last border comes last."""
    start = 0
    for border in _EVENT.finditer(events):
        yield events[start : border.end()]
        start = border.end()
    if start < len(events):
        yield events[start:]


def data_of(event: bytes) -> bytes | None:
    """An event's data: its `data:` lines joined; None for comments and blank lines."""
    lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
