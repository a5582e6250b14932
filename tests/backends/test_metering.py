"""Counting: plausible usage is believed, impossible usage is missing, missing usage is counted from the text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.backends.metering import MAX_TOKENS, Emitted, approximate_tokens, read_usage, valid_usage
from app.types import Usage

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["prompt_tokens", "completion_tokens", "prompt_tokens_details", "x"]), _JSON))
def test_whatever_usage_says_the_counts_are_possible(fields: dict[str, object]) -> None:
    """No usage object, however wrong, raises or yields a count below zero or beyond all reason."""
    usage = valid_usage(json.dumps(fields).encode())
    if usage is not None:
        assert 0 <= usage.cached_tokens <= usage.prompt_tokens <= MAX_TOKENS
        assert 0 <= usage.completion_tokens <= MAX_TOKENS


@given(st.binary(max_size=60) | _JSON.map(lambda value: json.dumps({"usage": value}).encode()))
def test_reading_usage_never_raises(body: bytes) -> None:
    """An answer of any bytes has a usage or none."""
    read_usage(body)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, Usage(3, 4)),
        ({"prompt_tokens": 3}, Usage(3, 0)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage(0, 0)),
        ({"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 6}}, Usage(9, 1, 6)),
        ({"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 60}}, Usage(9, 1, 9)),
        ({"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": None}, Usage(9, 1)),
        ({"prompt_tokens": -1, "completion_tokens": 4}, None),
        ({"prompt_tokens": 1, "completion_tokens": MAX_TOKENS + 1}, None),
        ({"completion_tokens": 4}, None),
        (None, None),
    ],
)
def test_usage_of_a_whole_answer(usage: dict[str, object] | None, expected: Usage | None) -> None:
    """Embeddings have no completion; cached tokens are part of the prompt; a negative count is no count."""
    assert read_usage(json.dumps({"id": "x", "usage": usage}).encode()) == expected


def test_everything_a_model_says_is_counted() -> None:
    """Text, refusals, reasoning and tool calls all cost tokens."""
    deltas = [
        {"content": "a"},
        {"refusal": "b"},
        {"reasoning_content": "c"},
        {"reasoning": "d", "reasoning_content": "d"},
        {"tool_calls": [{"index": 0, "function": {"name": "e", "arguments": "f"}}]},
        {"role": "assistant", "content": ""},
    ]
    emitted = Emitted()
    for delta in deltas:
        emitted.add(b"data: %s\n\n" % json.dumps({"choices": [{"delta": delta}]}).encode())
    emitted.add(b'data: {"choices":[{"text":"g"}]}\n\ndata: [DONE]\n\n: note\n\n')
    assert emitted.total() == ("abcdefg", 6)
    assert emitted.total() == ("abcdefg", 6)


@given(st.text())
def test_a_text_is_never_free(text: str) -> None:
    """The rough count is positive for every text that is not empty, and never above its bytes."""
    assert bool(text) == bool(approximate_tokens(text))
    assert approximate_tokens(text) <= len(text.encode())
