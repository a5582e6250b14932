from __future__ import annotations

import json
from typing import Any

from app.backends.metering import approximate_tokens
from app.backends.reply import CHECK_BYTES, Replier
from app.types import Operation
from tests.backends.calls import Canned, Noted, call, target


def chunk(text: str) -> bytes:
    """One event of a chat stream."""
    made = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "gpt",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
    }
    return b"data: " + json.dumps(made).encode() + b"\n\n"


def events(body: bytes) -> list[Any]:
    """The JSON of every event."""
    lines = [line[6:] for line in body.split(b"\n\n") if line.startswith(b"data: ")]
    return [line if line == b"[DONE]" else json.loads(line) for line in lines]


async def streamed(record: Noted, **fields: Any) -> bytes:
    """What a caller gets of a long stream, given what its record says."""
    upstream = Canned([chunk("word " * 20)] * (3 * CHECK_BYTES // 200))
    asked = call(Operation.CHAT, stream=True, **fields)
    reply = await Replier(approximate_tokens).reply(target(), upstream, asked, record, None)
    return b"".join([block async for block in reply.body])


async def test_a_stream_that_nobody_pays_for_ends_cleanly() -> None:
    """It is cut for its length, says why, ends with [DONE], and is settled once."""
    record = Noted(pays=1)
    body = await streamed(record)
    *_, last, done = events(body)
    assert b": x-stop: budget\n\n" in body
    assert done == b"[DONE]"
    assert last["x-stop"] == "budget"
    assert (last["id"], last["object"], last["model"]) == ("chatcmpl-1", "chat.completion.chunk", "support")
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]
    assert (record.asked, record.settled, record.errors) == (2, 1, [])


async def test_a_stopped_stream_still_tells_its_usage() -> None:
    """The extra chunk that a caller asked for comes with what was relayed."""
    body = await streamed(Noted(pays=0), stream_options={"include_usage": True})
    *_, usage, _ = events(body)
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] > 0
    assert usage["usage"]["total_tokens"] == 5 + usage["usage"]["completion_tokens"]


async def test_a_paid_stream_is_only_asked_about() -> None:
    """As long as its account pays, every byte goes through."""
    record = Noted()
    assert await streamed(record) != b""
    assert record.asked == 3
