"""A stored answer given again: the same words, as a whole or as a stream, and as a stream put together again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cache.assemble import assemble
from app.cache.replay import PIECE_CHARACTERS, as_stream, as_whole, pieces, replay
from app.cache.stored import storable, text_of, usage_of, with_usage
from app.types import CachedAnswer, CacheStatus, Operation, Usage
from tests.cache.calls import call_of, make_answer, make_call, make_stream

WORDS = "Open the settings, choose Security, then press Reset.\n\nA link goes to your address: it is good for an hour."


@dataclass(slots=True)
class FakeHitRecord:
    """An account that remembers the order of what happens to it."""

    told: list[Any] = field(default_factory=list)

    def hit(self, answer: CachedAnswer, usage: Usage) -> None:
        """Remember."""
        self.told.append((answer.status, usage))

    def settle(self) -> None:
        """Remember."""
        self.told.append("settled")


def stored(body: bytes | None = None) -> CachedAnswer:
    """A stored answer of long ago."""
    return CachedAnswer(body or make_answer(WORDS), CacheStatus.EXACT, 1_700_000_000.0)


async def test_a_whole_call_gets_it_whole_and_settled() -> None:
    """The words and usage are the stored ones, id and moment are new, and the age is told."""
    record = FakeHitRecord()
    reply = await replay(stored(), make_call(), record)
    assert record.told == [(CacheStatus.EXACT, Usage(9, 4)), "settled"]
    body = msgspec.json.decode(b"".join([block async for block in reply.body]))
    old = msgspec.json.decode(make_answer(WORDS))
    assert body["choices"] == old["choices"]
    assert body["usage"] == old["usage"]
    assert body["id"] != old["id"]
    assert body["created"] > old["created"]
    assert int(dict(reply.headers)[b"x-cache-age"]) > 86_400


async def test_a_streaming_call_gets_a_stream_settled_before_its_end() -> None:
    """Events that join to the stored words, one role, one finish, [DONE] last and after the settlement."""
    record = FakeHitRecord()
    reply = await replay(stored(), make_call(stream=True, stream_options={"include_usage": True}), record)
    assert reply.stream
    blocks = []
    async for block in reply.body:
        blocks.append(block)
        record.told.append(block == b"data: [DONE]\n\n")
    assert record.told[1:] == [False, "settled", True]
    again = assemble(b"".join(blocks))
    assert again is not None
    assert text_of(again) == WORDS
    assert usage_of(again) == Usage(9, 4)
    assert storable(again)


async def test_two_replays_have_two_ids() -> None:
    """No two answers of the gateway share an id."""
    ids = set()
    for _ in range(2):
        reply = await replay(stored(), make_call(), FakeHitRecord())
        ids.add(msgspec.json.decode(b"".join([block async for block in reply.body]))["id"])
    assert len(ids) == 2


async def test_a_text_completion_is_replayed_as_one() -> None:
    """Completions keep their own shape, whole and streamed."""
    choice = {"index": 0, "text": WORDS, "logprobs": None, "finish_reason": "stop"}
    body = msgspec.json.encode({"id": "cmpl-1", "object": "text_completion", "created": 1, "choices": [choice]})
    call = call_of({"model": "support", "prompt": "x", "stream": True}, Operation.COMPLETIONS)
    reply = await replay(stored(body), call, FakeHitRecord())
    again = assemble(b"".join([block async for block in reply.body]))
    assert again is not None
    assert msgspec.json.decode(again)["choices"] == [choice]


@given(st.text(min_size=1), st.booleans())
def test_a_stream_joins_to_the_same_answer(words: str, include_usage: bool) -> None:
    """For any text, streaming a stored answer and assembling the stream gives its words, finish and usage back."""
    body = make_answer(words)
    events = as_stream(body, include_usage=include_usage, model="m", answer_id="i", created=1)
    again = assemble(b"".join(events))
    assert again is not None
    assert text_of(again) == words
    assert msgspec.json.decode(again)["choices"][0]["finish_reason"] == "stop"
    assert (usage_of(again) is not None) is include_usage


@given(st.text())
def test_pieces_join_to_the_text(text: str) -> None:
    """Cut anywhere, nothing is lost, and no piece is much longer than it should be unless one word is."""
    cut = list(pieces(text))
    assert "".join(cut) == text
    assert all(len(piece) <= PIECE_CHARACTERS or not piece.strip() or len(piece.split()) == 1 for piece in cut)


def test_a_whole_keeps_fields_it_does_not_know() -> None:
    """What an upstream adds stays."""
    body = msgspec.json.encode({**msgspec.json.decode(make_answer()), "service_tier": "flex"})
    again = msgspec.json.decode(as_whole(body, model="public", answer_id="i", created=5))
    assert (again["service_tier"], again["model"], again["id"], again["created"]) == ("flex", "public", "i", 5)


STREAM = make_stream("Press ", "it.", usage={"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13})


def test_assembled_is_what_a_whole_call_would_have_got() -> None:
    """Head, message, finish and usage, whatever the line ends."""
    for events in (STREAM, STREAM.replace(b"\n", b"\r\n"), b": ping\n\n" + STREAM):
        whole = assemble(events)
        assert whole is not None
        body = msgspec.json.decode(whole)
        assert body["choices"][0]["message"] == {"role": "assistant", "content": "Press it.", "refusal": None}
        assert (body["object"], body["id"]) == ("chat.completion", "chatcmpl-1")
        assert usage_of(whole) == Usage(9, 4)


def event(**fields: Any) -> bytes:
    """One chunk's event."""
    return b"data: " + msgspec.json.encode({"object": "chat.completion.chunk", **fields}) + b"\n\n"


@pytest.mark.parametrize(
    "events",
    [
        b"",
        STREAM.replace(b"data: [DONE]\n\n", b""),
        STREAM[:40],
        STREAM.replace(b'"stop"', b"null"),
        event(error={"message": "x"}) + STREAM,
        event(object="other") + STREAM,
        event(object="text_completion", choices=[{"index": 0, "text": "x", "finish_reason": "stop"}]) + STREAM,
        event(choices=[{"index": 0, "delta": {"tool_calls": [{"index": 0}]}, "finish_reason": "stop"}]) + STREAM,
        event(choices=[{"index": 0, "delta": {"content": "x"}, "logprobs": {"content": []}}]) + STREAM,
        event(choices=[{"index": 0, "delta": {"content": "x"}, "new": "thing"}]) + STREAM,
        event(choices=[{"delta": {"content": "x"}}]) + STREAM,
        event(choices=["x"]) + STREAM,
        b"data: {\n\n" + STREAM,
        b"data: \xff\n\n" + STREAM,
        b"data: [DONE]\n\n",
    ],
)
def test_what_is_not_understood_is_not_assembled(events: bytes) -> None:
    """Errors, tool calls, missing ends and unknown shapes leave nothing to keep."""
    assert assemble(events) is None


def test_usage_is_added_where_it_is_missing() -> None:
    """And read back as it was."""
    body = assemble(make_stream("x"))
    assert body is not None
    assert usage_of(body) is None
    assert usage_of(with_usage(body, Usage(3, 5))) == Usage(3, 5)
    assert usage_of(b"nonsense") is None


def test_cached_prompt_tokens_are_read() -> None:
    """The upstream's own prefix cache is part of what an answer cost."""
    details = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 8}}
    body = msgspec.json.encode({**msgspec.json.decode(make_answer()), "usage": details})
    assert usage_of(body) == Usage(9, 1, 8)


def test_several_choices_are_storable_only_when_all_are_finished() -> None:
    """One truncated choice spoils the answer."""
    answer = msgspec.json.decode(make_answer())
    answer["choices"] += msgspec.json.decode(make_answer(finish_reason="length"))["choices"]
    assert not storable(msgspec.json.encode(answer))
    assert not storable(msgspec.json.encode({"object": "chat.completion", "choices": []}))
    assert not storable(msgspec.json.encode({"object": "chat.completion", "choices": [{"finish_reason": "stop"}]}))
    assert not storable(msgspec.json.encode({"object": "list", "choices": answer["choices"][:1]}))
