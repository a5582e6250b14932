"""A stored answer given again: whole to a whole call, as a stream of events to a streaming one.

Every replay has its own id and its own moment; words and usage are the stored ones, whatever a hit costs. As with a
relayed stream, the settlement is sent before the last event, so a caller that goes on at `[DONE]` finds its counters
right.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec

from app.cache.stored import usage_of
from app.interfaces import HitRecord
from app.types import CachedAnswer, Call, Operation, Reply, Usage

PIECE_CHARACTERS = 64
DONE = b"data: [DONE]\n\n"

_WORDS = re.compile(r"\s*\S+\s*|\s+")
_NOT_IN_DELTA = frozenset({"role", "content", "tool_calls", "function_call", "refusal", "annotations", "audio"})


async def replay(answer: CachedAnswer, call: Call, record: HitRecord) -> Reply:
    """The caller's reply from a stored answer; a whole one is settled when this returns."""
    record.hit(answer, usage_of(answer.body) or Usage())
    now = time.time()
    prefix = "chatcmpl-" if call.operation is Operation.CHAT else "cmpl-"
    answer_id = f"{prefix}{secrets.token_hex(12)}"
    age = (b"x-cache-age", str(max(0, int(now - answer.stored_at))).encode())
    if call.stream:
        events = as_stream(
            answer.body, include_usage=call.include_usage, model=call.route, answer_id=answer_id, created=int(now)
        )
        head = [(b"content-type", b"text/event-stream; charset=utf-8"), age]
        return Reply(200, head, _settled_before_last(events, record), stream=True)
    body = as_whole(answer.body, model=call.route, answer_id=answer_id, created=int(now))
    record.settle()
    return Reply(200, [(b"content-type", b"application/json"), age], _once(body), stream=False)


def as_whole(body: bytes, *, model: str, answer_id: str, created: int) -> bytes:
    """The stored body under a new id and moment."""
    fields: dict[str, Any] = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return msgspec.json.encode({**fields, "id": answer_id, "created": created, "model": model})


def as_stream(body: bytes, *, include_usage: bool, model: str, answer_id: str, created: int) -> Iterator[bytes]:
    """The stored body as the events of a stream, the last of them `[DONE]`."""
    answer: dict[str, Any] = msgspec.json.decode(body)
    is_chat = answer["object"] == "chat.completion"
    head = {
        "id": answer_id,
        "object": "chat.completion.chunk" if is_chat else "text_completion",
        "created": created,
        "model": model,
    }
    if answer.get("system_fingerprint") is not None:
        head["system_fingerprint"] = answer["system_fingerprint"]
    unknown = {"usage": None} if include_usage else {}
    for choice in answer["choices"]:
        for part in _chat_parts(choice) if is_chat else _text_parts(choice):
            yield _event({**head, "choices": [{"index": choice["index"], "logprobs": None, **part}], **unknown})
    if include_usage and answer.get("usage") is not None:
        yield _event({**head, "choices": [], "usage": answer["usage"]})
    yield DONE


def _chat_parts(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    message = choice["message"]
    more = {name: value for name, value in message.items() if name not in _NOT_IN_DELTA and value is not None}
    yield {"delta": {"role": "assistant", "content": "", **more}, "finish_reason": None}
    for piece in pieces(message["content"]):
        yield {"delta": {"content": piece}, "finish_reason": None}
    yield {"delta": {}, "finish_reason": choice["finish_reason"]}


def _text_parts(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for piece in pieces(choice["text"]):
        yield {"text": piece, "finish_reason": None}
    yield {"text": "", "finish_reason": choice["finish_reason"]}


def pieces(text: str) -> Iterator[str]:
    """The text cut at word borders into pieces of some 64 characters; joined they are the text again."""
    piece = ""
    for word in _WORDS.findall(text):
        if piece and len(piece) + len(word) > PIECE_CHARACTERS:
            yield piece
            piece = ""
        piece += word
    if piece:
        yield piece


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


async def _settled_before_last(events: Iterator[bytes], record: HitRecord) -> AsyncIterator[bytes]:
    *first, last = events
    yield b"".join(first)
    record.settle()
    yield last


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
