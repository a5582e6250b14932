"""The clean end of a stream whose account can pay no further: OpenAI's own last words, and the reason.

The caller sees an answer that was cut for its length (`finish_reason: "length"`), the usage if it asked for it, and
`[DONE]`; the head has long been sent, so `x-stop: budget` stands in the last chunk and in a comment line before it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from app.backends.metering import UNREADABLE
from app.types import Call, Operation, Usage

_DECODER = msgspec.json.Decoder(dict[str, Any])
_HEAD = ("id", "object", "created", "model", "system_fingerprint")


def stopped(events: bytes, call: Call, used: Usage) -> bytes:
    """The last events after `events`, whose chunk lends its id, model and time."""
    head = _head(events)
    empty: dict[str, Any] = {"delta": {}} if call.operation is Operation.CHAT else {"text": ""}
    choices = [{"index": i, **empty, "logprobs": None, "finish_reason": "length"} for i in range(call.choices)]
    chunks = [{**head, "choices": choices, "x-stop": "budget"}]
    if call.include_usage:
        usage = {
            "prompt_tokens": used.prompt_tokens,
            "completion_tokens": used.completion_tokens,
            "total_tokens": used.total_tokens,
        }
        chunks[0]["usage"] = None
        chunks.append({**head, "choices": [], "usage": usage})
    told = b"".join(b"data: " + msgspec.json.encode(chunk) + b"\n\n" for chunk in chunks)
    return b": x-stop: budget\n\n" + told + b"data: [DONE]\n\n"


def _head(events: bytes) -> dict[str, Any]:
    for line in reversed(events.splitlines()):
        if not line.startswith(b"data:"):
            continue
        try:
            chunk = _DECODER.decode(line[5:])
        except UNREADABLE:
            continue
        return {name: chunk[name] for name in _HEAD if name in chunk}
    return {}
