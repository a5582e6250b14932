"""Tokens to text: whole characters, stop strings, templates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.errors import RequestError
from app.engine.text import TextStream
from app.engine.tokenizer import Tokenizer
from tests.engine.conftest import Assets

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def stream(tokenizer: Tokenizer, text: str, **options: object) -> tuple[list[str], str | None]:
    """Feed a text byte by byte; returns the pieces shown and the stop string that ended it."""
    one = TextStream(tokenizer, **options)  # type: ignore[arg-type]
    pieces = []
    for token in tokenizer.encode(text):
        word = one.push(token)
        pieces.append(one.take(final=word is not None))
        if word is not None:
            return pieces, word
    pieces.append(one.take(final=True))
    return pieces, None


@pytest.fixture(scope="module")
def tiny(assets: Assets) -> Tokenizer:
    """One token a byte."""
    return Tokenizer(assets.base)


@given(data=st.data(), text=texts)
def test_only_whole_characters_are_shown(tiny: Tokenizer, data: st.DataObject, text: str) -> None:
    """Split into single bytes, any text comes back whole, and no piece ever holds half a character."""
    pieces, _ = stream(tiny, text.replace("\ufffd", ""))
    assert "".join(pieces) == text.replace("\ufffd", "")
    assert all("\ufffd" not in piece for piece in pieces)


def test_an_unfinished_character_is_never_shown(tiny: Tokenizer) -> None:
    """Bytes that end in the middle of a character are dropped at the end."""
    one = TextStream(tiny)
    for token in tiny.encode("a€")[:-1]:
        one.push(token)
    assert one.take(final=True) == "a"


@given(before=texts, word=st.text(st.sampled_from("abX"), min_size=1, max_size=4), after=texts)
def test_a_stop_string_is_cut_wherever_tokens_split_it(tiny: Tokenizer, before: str, word: str, after: str) -> None:
    """The text shown is what stands before the first stop string, and never a part of it."""
    text = (before + word + after).replace("\ufffd", "")
    pieces, found = stream(tiny, text, stop=[word])
    assert found == word
    assert "".join(pieces) == text[: text.index(word)]


def test_a_stop_string_can_be_kept(tiny: Tokenizer) -> None:
    """`include_stop_str_in_output` ends the text after the stop string."""
    pieces, _ = stream(tiny, "one STOP two", stop=["STOP"], keep_stop=True)
    assert "".join(pieces) == "one STOP"


def test_held_back_text_comes_out_when_nothing_stops(tiny: Tokenizer) -> None:
    """Characters that might have begun a stop string are shown at the end."""
    pieces, found = stream(tiny, "one STO", stop=["STOP"])
    assert found is None
    assert "".join(pieces) == "one STO"


def test_the_template_renders_the_conversation(tiny: Tokenizer) -> None:
    """Roles become tags, the special tokens become single ids, and the assistant's tag is last."""
    ids = tiny.encode(tiny.render([{"role": "user", "content": "hi"}]), add_special_tokens=False)
    assert len(ids) == 5
    assert tiny.decode(ids) == "<|user|>hi<|end|><|assistant|>"
    assert tiny.eos_id == ids[3]


def test_a_final_message_can_be_continued(tiny: Tokenizer) -> None:
    """The last message stays open when the model is to go on with it."""
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Dear"}]
    text = tiny.render(messages, add_generation_prompt=False, continue_final_message=True)
    assert text.endswith("<|assistant|>Dear")


def test_an_empty_conversation_is_the_callers_fault(tiny: Tokenizer) -> None:
    """No message, no prompt."""
    with pytest.raises(RequestError, match="empty conversation"):
        tiny.render([])


def test_a_token_without_a_whole_character_has_no_text(tiny: Tokenizer) -> None:
    """Log-probabilities show an empty text for a part of a character."""
    first, *_ = tiny.encode("€")
    assert tiny.token_text(first) == ""
    assert tiny.token_text(tiny.encode("a")[0]) == "a"
