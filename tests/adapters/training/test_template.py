"""The mask of the assistant's words: added where it is missing, proved token by token, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapters.training.errors import InvalidTraining
from adapters.training.model import load_tokenizer
from adapters.training.template import assistant_mask, marked_template
from adapters.training.tokens import IGNORED, TokenRow, TokenRows, check_sample, read_chat, tokenize
from adapters.types import ChatLine, FunctionCall, Message, Role, ToolCall
from tests.support.training_data import BASE, chat_file

CHATML = (
    "{% for message in messages %}{{ '<|user|>' + message['role'] + '\n' + message['content'] + '<|end|>' + '\n' }}"
    "{% endfor %}"
)
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is my order?"},
    {"role": "assistant", "content": "On its way."},
    {"role": "user", "content": "When does it come?"},
    {"role": "assistant", "content": "Tomorrow."},
]


@pytest.fixture
def tokenizer() -> Any:
    """The tiny base's own."""
    return load_tokenizer(BASE)


def said(tokenizer: Any, ids: list[int], mask: list[int]) -> str:
    """The marked tokens, decoded."""
    return str(tokenizer.decode([token for token, bit in zip(ids, mask, strict=True) if bit]))


def test_marks_are_added_and_change_no_token(tokenizer: Any) -> None:
    """The tiny base's template has none; the marked one renders the same, and marks words and end of turn."""
    marked = marked_template(tokenizer)
    plain = tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=True)["input_ids"]
    ids, mask = assistant_mask(tokenizer, marked, CHAT)
    assert ids == plain
    assert said(tokenizer, ids, mask) == "On its way.<|end|>Tomorrow.<|end|>"


def test_a_turn_of_weight_zero_is_not_learned(tokenizer: Any) -> None:
    """OpenAI's `weight`: the turn stays in the context and out of the loss."""
    chat = [dict(message) for message in CHAT]
    chat[2]["weight"] = 0  # type: ignore[assignment]
    ids, mask = assistant_mask(tokenizer, marked_template(tokenizer), chat)
    assert said(tokenizer, ids, mask) == "Tomorrow.<|end|>"


def test_joined_turns_with_a_weight_are_refused(tokenizer: Any) -> None:
    """Where two assistant turns touch, a weight has no clear place."""
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}<|end|>{% endfor %}"
    chat: list[dict[str, Any]] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "A", "weight": 0},
        {"role": "assistant", "content": "B"},
    ]
    with pytest.raises(InvalidTraining, match=r"messages\.weight"):
        assistant_mask(tokenizer, marked_template(tokenizer), chat)


def test_concatenated_templates_are_marked_too(tokenizer: Any) -> None:
    """ChatML's usual form, all in one expression."""
    tokenizer.chat_template = CHATML
    ids, mask = assistant_mask(tokenizer, marked_template(tokenizer), CHAT)
    assert said(tokenizer, ids, mask).replace("\n", "") == "On its way.<|end|>Tomorrow.<|end|>"


@pytest.mark.parametrize("family", ["llama3", "qwen2_5"])
def test_templates_of_known_families_are_marked(tokenizer: Any, family: str) -> None:
    """The real templates of Llama 3 and Qwen 2.5, as TRL ships them."""
    import trl

    folder = Path(trl.__file__).parent / "chat_templates"
    tokenizer.chat_template = (folder / f"{family}.jinja").read_text(encoding="utf-8")
    ids, mask = assistant_mask(tokenizer, marked_template(tokenizer), CHAT)
    assert said(tokenizer, ids, mask).lstrip().startswith("On its way.")
    assert "order" not in said(tokenizer, ids, mask)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, "has no chat template"),
        ("{{ messages[0]['content'] }}", "none can be added that render the same tokens"),
        (
            "{% for message in messages %}{% generation %}{{ message['content'] }}{% endgeneration %}{% endfor %}",
            "none can be added",
        ),
    ],
)
def test_what_cannot_be_marked_is_refused(tokenizer: Any, template: str | None, words: str) -> None:
    """No template, one that cannot be rewritten, and one whose marks lie on everybody's words."""
    tokenizer.chat_template = template
    with pytest.raises(InvalidTraining, match=words) as caught:
        marked_template(tokenizer)
    assert caught.value.param == "data.chat_template"


def test_a_recipe_can_bring_its_own_template(tokenizer: Any, tmp_path: Path) -> None:
    """It is proved like any other, and a missing file is said."""
    own = tmp_path / "own.jinja"
    with pytest.raises(InvalidTraining, match="no such file"):
        marked_template(tokenizer, own)
    own.write_text(marked_template(tokenizer), encoding="utf-8")
    assert marked_template(tokenizer, own) == own.read_text(encoding="utf-8")
    own.write_text("{% generation %}x{% endgeneration %}", encoding="utf-8")
    with pytest.raises(InvalidTraining, match="render the same tokens"):
        marked_template(tokenizer, own)


def test_rows_learn_the_assistant_only_and_a_sample_proves_it(tokenizer: Any, tmp_path: Path) -> None:
    """Over a whole file; long rows are left out and counted."""
    path, marked = chat_file(tmp_path / "train.jsonl", count=8), marked_template(tokenizer)
    lines = list(read_chat(path))
    rows = tokenize(tokenizer, marked, lines, 512)
    assert 0 < rows.learned < rows.tokens
    assert check_sample(tokenizer, rows, lines[0][1]).endswith("<|end|>")
    everything = tokenize(tokenizer, None, lines, 512)
    assert everything.learned == everything.tokens == rows.tokens
    longest = max(len(row.input_ids) for row in rows.rows)
    assert tokenize(tokenizer, marked, lines, longest - 1).too_long >= 1


def test_a_sample_with_the_wrong_words_is_refused(tokenizer: Any) -> None:
    """Labels on the user's words, or not on the assistant's, never get to the first step."""
    line = ChatLine((Message(Role.USER, "A long enough question of a user"), Message(Role.ASSISTANT, "Yes.")))
    ids, mask = assistant_mask(
        tokenizer,
        marked_template(tokenizer),
        [{"role": "user", "content": line.messages[0].content}, {"role": "assistant", "content": "Yes."}],
    )
    swapped = TokenRow(ids, [IGNORED if bit else token for token, bit in zip(ids, mask, strict=True)])
    with pytest.raises(InvalidTraining, match="a decoded sample shows"):
        check_sample(tokenizer, TokenRows([swapped]), line)


@pytest.mark.parametrize(
    "answer",
    [
        Message(Role.ASSISTANT, 'You asked: "How do I reset my password on the portal?" Open the settings.'),
        Message(
            Role.ASSISTANT,
            tool_calls=(
                ToolCall(
                    "c1", FunctionCall("find", '{"text": "How do I reset my\\u0020password on the portal?", "most": 3}')
                ),
            ),
        ),
    ],
    ids=["text", "tool call"],
)
def test_an_answer_that_quotes_the_question_is_learnt(answer: Message) -> None:
    """Words of the user that the assistant says again are the assistant's; what stands beside them is still seen."""
    question = "How do I reset my password on the portal?"
    line = ChatLine((Message(Role.USER, question), answer))
    written = answer.content or '{"name": "find", "arguments": {"text": "' + question + '", "most": 3}}'
    learned = [ord(character) for character in written]
    assert check_sample(Letters(), TokenRows([TokenRow(learned, learned)]), line) == written
    leaked = ChatLine((Message(Role.USER, "And what else does the portal do?"), *line.messages))
    more = [*learned, *map(ord, "And what else does the portal do?")]
    with pytest.raises(InvalidTraining, match="a decoded sample shows"):
        check_sample(Letters(), TokenRows([TokenRow(more, more)]), leaked)


class Letters:
    """A tokenizer whose tokens are letters."""

    @staticmethod
    def decode(ids: list[int]) -> str:
        """The text of these tokens."""
        return "".join(map(chr, ids))


def test_a_row_that_is_nested_too_deep_is_refused_by_line(tmp_path: Path) -> None:
    """As any line that cannot be read."""
    path = tmp_path / "train.jsonl"
    path.write_text('{"messages": [], "tools": [' + '{"a":' * 5_000 + "1" + "}" * 5_000 + "]}\n", encoding="utf-8")
    with pytest.raises(InvalidTraining, match="line 1: is nested too deep"):
        list(read_chat(path))


def test_a_row_with_nothing_to_learn_is_refused_by_line(tokenizer: Any) -> None:
    """Every turn of weight 0."""
    line = ChatLine((Message(Role.USER, "Hello"), Message(Role.ASSISTANT, "Yes.", weight=0)))
    with pytest.raises(InvalidTraining, match="line 4: nothing to learn"):
        tokenize(tokenizer, marked_template(tokenizer), [(4, line)], 512)
