"""Counting what an answer used: from its usage block, or from the text that it emitted.

Zero is a count, missing is not; negative or absurd counts are treated as missing. Texts of a stream are only decoded
when they are needed (a cut stream) or when they would take too much memory raw, so a stream that ends with its own
usage costs nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from app.types import Usage

MAX_TOKENS = 10_000_000
FOLD_BYTES = 64 * 1024
MAX_TEXT_CHARS = 4 * 1024 * 1024  # beyond it events are counted, one token each: an upstream may be hostile

NULL = msgspec.Raw(b"null")  # a field that is absent; msgspec cannot take `Raw | None`


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _MadeOf(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _MadeOf | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _TextChoice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None


class _TextChunk(msgspec.Struct):
    choices: list[_TextChoice] = []


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = NULL
    error: msgspec.Raw = NULL


class _Whole(msgspec.Struct):
    usage: msgspec.Raw = NULL


_CHUNK = msgspec.json.Decoder(_Chunk)
_TEXTS = msgspec.json.Decoder(_TextChunk)
_WHOLE = msgspec.json.Decoder(_Whole)
_USAGE = msgspec.json.Decoder(_Usage)
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NOTHING = (b"null", b"false", b"{}", b'""')


@dataclass(frozen=True, slots=True)
class Chunk:
    """The parts of a stream's event that decide something; `usage` is its raw object, None when null or absent."""

    usage: msgspec.Raw | None
    finish_reasons: list[str]
    failed: bool
    is_extra: bool


def decode_event(data: bytes) -> Chunk | None:
    """The event's data, or None when it is not a chunk of any kind."""
    try:
        chunk = _CHUNK.decode(data)
    except UNREADABLE:
        return None
    reasons = [choice.finish_reason for choice in chunk.choices or () if choice.finish_reason]
    failed = says_error(chunk.error)
    usage = None if bytes(chunk.usage) == b"null" else chunk.usage
    return Chunk(usage, reasons, failed, is_extra=chunk.choices == [] and not failed)


def says_error(error: msgspec.Raw) -> bool:
    """Whether an `error` member means one: the SDKs raise on any that is truthy."""
    return bytes(error) not in _NOTHING


def valid_usage(raw: msgspec.Raw | bytes) -> Usage | None:
    """A usage object's counts, or None when they cannot be true."""
    try:
        usage = _USAGE.decode(raw)
    except UNREADABLE:
        return None
    cached = (usage.prompt_tokens_details and usage.prompt_tokens_details.cached_tokens) or 0
    reasoning = (usage.completion_tokens_details and usage.completion_tokens_details.reasoning_tokens) or 0
    counts = (usage.prompt_tokens, usage.completion_tokens or 0, cached, reasoning)
    if not all(0 <= count <= MAX_TOKENS for count in counts):
        return None
    return Usage(counts[0], counts[1], min(cached, counts[0]), reasoning_tokens=min(reasoning, counts[1]))


def read_usage(body: bytes) -> Usage | None:
    """The usage of a whole JSON answer, or None when it has no plausible one."""
    try:
        whole = _WHOLE.decode(body)
    except UNREADABLE:
        return None
    return valid_usage(whole.usage)


class Emitted:
    """The text that a stream has emitted so far, decoded as late as possible."""

    def __init__(self) -> None:
        self._raw: list[bytes] = []
        self._raw_bytes = 0
        self._texts: list[str] = []
        self._chars = 0
        self._events = 0

    def add(self, events: bytes) -> None:
        """Remember whole events."""
        self._raw.append(events)
        self._raw_bytes += len(events)
        if self._raw_bytes > FOLD_BYTES:
            self._fold()

    def total(self) -> tuple[str, int]:
        """All text, and the number of events that carried some."""
        self._fold()
        self._texts = ["".join(self._texts)]
        return self._texts[0], self._events

    def _fold(self) -> None:
        lines = b"".join(self._raw).splitlines()
        self._raw.clear()
        self._raw_bytes = 0
        for line in lines:
            text = emitted_text(line[5:]) if line.startswith(b"data:") else ""
            if not text:
                continue
            self._events += 1
            if self._chars < MAX_TEXT_CHARS:
                self._texts.append(text)
                self._chars += len(text)


def emitted_text(data: bytes) -> str:
    """The text of all choices in a stream's event or a whole answer; none in an embedding, or in what is no JSON."""
    try:
        choices = _TEXTS.decode(data).choices
    except UNREADABLE:
        return ""
    return _of(choices[0]) if len(choices) == 1 else "".join(map(_of, choices))


def _of(choice: _TextChoice) -> str:
    delta = choice.delta or choice.message
    if delta is None:
        return choice.text or ""
    said = (delta.content or "") + (delta.refusal or "") + (delta.reasoning or delta.reasoning_content or "")
    return said if delta.tool_calls is None else said + "".join(map(_called, delta.tool_calls))


def _called(call: _ToolCall) -> str:
    return "" if call.function is None else (call.function.name or "") + (call.function.arguments or "")


def approximate_tokens(text: str) -> int:
    """About four bytes a token, as BPE vocabularies have on English text: for answers whose upstream did not count."""
    return -(-len(text.encode()) // 4)
