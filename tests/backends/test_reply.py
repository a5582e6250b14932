"""From an open answer to the caller's reply: metered, settled before its last byte, kept only when it is whole."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from app.backends.metering import approximate_tokens
from app.backends.reply import MAX_KEPT_BYTES, Replier
from app.errors import UpstreamFailed
from app.types import Usage
from tests.backends.calls import Canned, Noted, call, target
from tests.support.provider import answer, events

EVENTS = events("gpt", include_usage=True)
REPLIER = Replier(approximate_tokens)


def _letters(text: str) -> int:
    return len(text)


class _Kept:
    def __init__(self) -> None:
        self.kept: list[tuple[bytes, Usage | None]] = []

    async def __call__(self, body: bytes, usage: Usage | None) -> None:
        self.kept.append((body, usage))


async def test_a_whole_answer_is_settled_before_it_is_sent() -> None:
    """By the time the caller has a byte, the account is closed with the upstream's usage."""
    record, keep = Noted(), _Kept()
    body = json.dumps(answer("gpt")).encode()
    reply = await REPLIER.reply(target(), Canned([body]), call(), record, keep)
    assert record.settled == 1
    assert record.meter is not None
    assert record.meter.usage() == Usage(5, 3)
    sent = b"".join([block async for block in reply.body])
    assert json.loads(sent)["model"] == "support"
    assert keep.kept == [(sent, Usage(5, 3))]


async def test_a_whole_answer_without_usage_is_estimated() -> None:
    """Missing usage is never free."""
    record = Noted()
    body = json.dumps({**answer("gpt"), "usage": None}).encode()
    await REPLIER.reply(target(), Canned([body]), call(), record, None)
    assert record.meter is not None
    assert record.meter.usage().estimated
    assert record.meter.usage().completion_tokens > 0


async def test_an_estimate_counts_what_was_said_and_nothing_else() -> None:
    """Log probabilities are not words, an embedding has none, and no more is charged than was allowed."""
    message = {"role": "assistant", "content": "hi" * 4}
    choices = [{"index": 0, "message": message, "logprobs": {"content": [{"token": "x" * 5000}]}}]
    embedding = {"object": "list", "data": [{"embedding": [0.25] * 1536}], "model": "gpt"}
    for body, limit, expected in (
        ({"choices": choices}, None, 8),
        ({"choices": choices}, 5, 5),
        ({"choices": [{"text": "abc"}]}, None, 3),
        (embedding, None, 0),
    ):
        record = Noted()
        asked = replace(call(), max_tokens=limit)
        await Replier(_letters).reply(target(), Canned([json.dumps(body).encode()]), asked, record, None)
        assert record.meter is not None
        assert record.meter.usage() == Usage(asked.prompt_tokens_estimate, expected, estimated=True)


async def test_a_stream_is_settled_before_its_last_event() -> None:
    """The caller that sees [DONE] finds its counters right."""
    record = Noted()
    reply = await REPLIER.reply(target(), Canned(EVENTS), call(stream=True), record, None)
    seen = b""
    async for block in reply.body:
        assert record.settled == (b"[DONE]" in block)
        seen += block
    assert seen.endswith(b"data: [DONE]\n\n")
    assert b"usage" not in seen
    assert record.first_bytes
    assert not record.errors


async def test_a_whole_stream_is_kept_with_its_true_usage() -> None:
    """The cache gets the events that the caller got, and the usage that the caller did not see."""
    keep = _Kept()
    reply = await REPLIER.reply(target(), Canned(EVENTS), call(stream=True), Noted(), keep)
    seen = b"".join([block async for block in reply.body])
    assert keep.kept == [(seen, Usage(5, 3))]


@pytest.mark.parametrize(
    ("blocks", "error"),
    [
        (EVENTS[:3], UpstreamFailed("broke off")),
        (EVENTS[:3], None),
        ([*EVENTS[:2], b'data: {"error":{"message":"engine died"}}\n\n'], None),
        ([*EVENTS[:2], b'data: {"error":{"message":"engine died"}}\n\ndata: [DONE]\n\n'], None),
        ([EVENTS[0], b"x" * 70_000] * 20, None),
    ],
)
async def test_a_stream_that_ends_early_says_so(blocks: list[bytes], error: UpstreamFailed | None) -> None:
    """Broken off, ended without an end, or failed by its own word: one error event, settled once, never kept."""
    record, keep = Noted(), _Kept()
    reply = await REPLIER.reply(target(), Canned(blocks, error), call(stream=True), record, keep)
    seen = b"".join([block async for block in reply.body])
    assert seen.count(b'"error"') == 1
    assert record.settled == 1
    assert len(record.errors) == 1
    assert not keep.kept


async def test_an_end_without_done_is_an_end() -> None:
    """A finish reason is enough for the caller; only a stream with [DONE] is kept."""
    record, keep = Noted(), _Kept()
    reply = await REPLIER.reply(target(), Canned(EVENTS[:-1]), call(stream=True), record, keep)
    seen = b"".join([block async for block in reply.body])
    assert b'"error"' not in seen
    assert (record.settled, record.errors, keep.kept) == (1, [], [])


async def test_a_stream_too_long_to_keep_is_let_go_of() -> None:
    """Keeping costs at most one answer's bound, not the whole stream."""
    block = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % (b"x" * 60_000)
    keep = _Kept()
    reply = await REPLIER.reply(target(), Canned([block] * 40 + EVENTS), call(stream=True), Noted(), keep)
    size = sum([len(part) async for part in reply.body])
    assert size > MAX_KEPT_BYTES
    assert not keep.kept


async def test_a_caller_that_leaves_is_metered_for_what_it_got() -> None:
    """Closing the reply half-way leaves the meter with what was relayed so far, and settles nothing by itself."""
    record = Noted()
    reply = await REPLIER.reply(target(), Canned(EVENTS[:4]), call(stream=True), record, None)
    body = reply.body
    for _ in range(3):
        await anext(body)
    await body.aclose()  # type: ignore[attr-defined]  # the body is a generator
    assert record.settled == 0
    assert record.meter is not None
    assert record.meter.usage().completion_tokens >= 2
