"""The relay: bytes in, whole events out, usage injected by us and hidden from those who did not ask."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.backends.relay import MAX_EVENT_BYTES, Relay, error_event, renamed
from app.errors import UpstreamFailed
from app.types import Usage
from tests.support.provider import events, usage

_TEXTS = st.text(max_size=20) | st.sampled_from(
    ['"usage":null', ',"usage":null,', "[DONE]", '"model":"gpt"', "data: x\n\n"]
)


def _relay(*, include_usage: bool = False, public: str = "support") -> Relay:
    return Relay(include_usage=include_usage, upstream_model="gpt", public_model=public)


def _letters(text: str) -> int:
    return len(text)


def _through(relay: Relay, blocks: list[bytes]) -> bytes:
    return b"".join(relay.feed(block) for block in blocks) + relay.finish()


def _cut(data: bytes, places: list[int]) -> list[bytes]:
    borders = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(borders)]


def _chunks(stream: bytes) -> list[dict[str, Any]]:
    datas = [line[5:].strip() for line in stream.splitlines() if line.startswith(b"data:")]
    return [json.loads(data) for data in datas if data != b"[DONE]"]


@st.composite
def _streams(draw: st.DrawFn) -> bytes:
    """A stream as some upstream may send it: comments, CRLF, spaces after colons, late errors, half ends."""
    made = events("gpt", draw(st.lists(_TEXTS, max_size=5)), include_usage=draw(st.booleans()))
    if draw(st.booleans()):
        made = [event.replace(b'":', b'": ') for event in made]
    extra = st.sampled_from(
        [b": keepalive\n\n", b"\n", b'data: {"error":{"message":"x"}}\n\n', b"event: x\ndata: no\n\n"]
    )
    for place, event in draw(st.lists(st.tuples(st.integers(0, 8), extra), max_size=3)):
        made.insert(place, event)
    data = b"".join(made)
    if draw(st.booleans()):
        data = data.replace(b"\n", b"\r\n")
    return data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data


@given(_streams(), st.lists(st.integers(0, 10_000), max_size=30), st.booleans())
def test_output_does_not_depend_on_the_cuts(data: bytes, places: list[int], include_usage: bool) -> None:
    """However the upstream's bytes are cut into blocks, the caller's bytes, the usage and the verdict are the same."""
    whole, cut = _relay(include_usage=include_usage), _relay(include_usage=include_usage)
    assert _through(cut, _cut(data, places)) == _through(whole, [data])
    assert (cut.usage, cut.complete, cut.failed, cut.done) == (whole.usage, whole.complete, whole.failed, whole.done)
    assert cut.usage_or_estimate(3, _letters) == whole.usage_or_estimate(3, _letters)


@given(_streams(), st.lists(st.integers(0, 10_000), max_size=30))
def test_only_whole_events_are_passed_on(data: bytes, places: list[int]) -> None:
    """At every moment what the caller has ends on an event border."""
    relay = _relay()
    for block in _cut(data, places):
        out = relay.feed(block)
        assert not out or out.endswith((b"\n\n", b"\n\r\n"))
    assert relay.finish()[-2:] in (b"", b"\n\n")


@given(st.lists(_TEXTS, min_size=1, max_size=8), st.lists(st.integers(0, 10_000), max_size=20))
def test_a_caller_that_did_not_ask_sees_no_trace_of_usage(words: list[str], places: list[int]) -> None:
    """The injected usage is counted and removed, as if the stream had never had it, texts untouched."""
    relay = _relay(public="gpt")
    got = _through(relay, _cut(b"".join(events("gpt", words, include_usage=True)), places))
    assert got == b"".join(events("gpt", words, include_usage=False))
    assert relay.usage == Usage(5, len(words))


@given(st.lists(_TEXTS, max_size=8))
def test_a_caller_that_asked_gets_every_byte(words: list[str]) -> None:
    """With include_usage the stream is the upstream's own."""
    data = b"".join(events("gpt", words, include_usage=True))
    relay = _relay(include_usage=True, public="gpt")
    assert _through(relay, [data]) == data
    assert relay.usage == Usage(5, len(words))


@given(st.lists(_TEXTS, max_size=8))
def test_the_public_name_replaces_the_upstream_name(words: list[str]) -> None:
    """The `model` of every chunk is the one the caller asked for; texts that look like it stay."""
    got = _chunks(_through(_relay(), [b"".join(events("gpt", words, include_usage=True))]))
    assert {chunk["model"] for chunk in got} == {"support"}
    said = [choice["delta"].get("content", "") for chunk in got for choice in chunk["choices"]]
    assert "".join(said) == "".join(words)


def test_usage_beside_the_last_delta_is_counted_and_kept() -> None:
    """Some upstreams put usage into the chunk that finishes: the chunk must not be lost."""
    event = (
        b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":7}}\n\n'
    )
    relay = _relay()
    assert relay.feed(event) == event
    assert relay.usage == Usage(2, 7)
    assert relay.complete


@pytest.mark.parametrize("counts", [{"prompt_tokens": -1}, {"completion_tokens": 10**12}, {"prompt_tokens": "x"}])
def test_impossible_usage_is_treated_as_missing(counts: dict[str, Any]) -> None:
    """Negative or absurd counts are not believed: the text that was relayed is counted instead."""
    chunk = {"choices": [], "usage": {**usage(3), **counts}}
    relay = _relay()
    _through(relay, [*events("gpt", ["a", "b"], include_usage=False)[:3], b"data: %s\n\n" % json.dumps(chunk).encode()])
    assert relay.usage is None
    assert relay.usage_or_estimate(4, _letters) == Usage(4, 2, estimated=True)


def test_zero_usage_is_a_count() -> None:
    """Explicit zeros stand; they are not replaced by an estimate."""
    relay = _relay()
    relay.feed(b'data: {"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0}}\n\n')
    assert relay.usage_or_estimate(9, _letters) == Usage(0, 0)


def test_an_error_event_is_passed_on_and_remembered() -> None:
    """A stream that says `error` half-way is not complete, even if [DONE] follows."""
    first, *_ = events("gpt", include_usage=False)
    error = b'data: {"error":{"message":"engine died"}}\n\n'
    relay = _relay(public="gpt")
    assert _through(relay, [first + error + b"data: [DONE]\n\n"]) == first + error + b"data: [DONE]\n\n"
    assert relay.failed
    assert not relay.complete


def test_nothing_follows_done() -> None:
    """What an upstream says after [DONE] reaches nobody and counts for nothing."""
    data = b"".join(events("gpt", include_usage=False))
    relay = _relay(public="gpt")
    assert (
        _through(relay, [data + b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n']) == data
    )
    assert relay.usage is None


def test_half_an_event_is_never_passed_on() -> None:
    """A stream cut inside an event ends at the event before it."""
    first, second, *_ = events("gpt", include_usage=False)
    relay = _relay(public="gpt")
    assert _through(relay, [first, second[:-10]]) == first
    assert not relay.complete


def test_an_event_without_end_is_refused_at_its_bound() -> None:
    """A ten-gigabyte line costs one buffer of bounded size, not ten gigabytes."""
    relay, block = _relay(), b"x" * 65536
    with pytest.raises(UpstreamFailed, match="without end"):
        for _ in range(10 * 1024**3 // len(block)):
            relay.feed(block)
    assert len(relay._tail) <= MAX_EVENT_BYTES + len(block)


def test_the_text_kept_for_counting_is_bounded() -> None:
    """An upstream that never stops talking, and never counts, does not fill the memory; its events still count."""
    relay = _relay()
    event = b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % (b"x" * 60_000)
    for _ in range(200):
        relay.feed(event)
    text, count = relay._emitted.total()
    assert len(text) < 4.2 * 1024 * 1024
    assert count == 200


def test_an_error_event_is_one_line() -> None:
    """An upstream's pretty-printed refusal becomes one SSE event, not many broken ones."""
    event = error_event(UpstreamFailed("line\nbreak"))
    assert event.count(b"\n") == 2
    assert json.loads(event[6:])["error"]["message"] == "line\nbreak"


def test_a_whole_answer_is_renamed_once() -> None:
    """Only the answer's own name changes, not a text that quotes it."""
    body = json.dumps({"model": "gpt", "choices": [{"message": {"content": '"model": "gpt"'}}]}).encode()
    assert json.loads(renamed(body, "gpt", "support")) == {
        "model": "support",
        "choices": [{"message": {"content": '"model": "gpt"'}}],
    }
