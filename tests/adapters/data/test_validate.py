from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.data.chat import BrokenRow, parse_chat
from adapters.data.tokens import estimate, token_counter
from adapters.data.validate import Validate, chat_lines, check_file
from adapters.errors import BadFileError, ConfigurationError
from adapters.settings import Validation
from adapters.types import Example, Message, Role

TOKENIZER = Path(__file__).resolve().parents[3] / "app" / "engine" / "assets" / "base" / "tokenizer.json"
USER = {"role": "user", "content": "How do I reset my password?"}
ANSWER = {"role": "assistant", "content": "Open the settings and choose security."}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"id": 1}'}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "shipped"}


def _line(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {"messages": [{**USER, "content": f"{USER['content']} {number}"}, ANSWER], **changes}


def _asked(**question: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", **question}, ANSWER]}


def _called(*calls: Any) -> dict[str, Any]:
    return {"messages": [USER, {"role": "assistant", "tool_calls": list(calls)}], "tools": [TOOL]}


def _declared(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "a", **function}}


def _file(folder: Path, lines: list[Any]) -> Path:
    path = folder / "train.jsonl"
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    return path


DEEP = {"name": "look_up", "arguments": '{"a":' * 2_000 + "1" + "}" * 2_000}
BROKEN: list[tuple[Any, str, str]] = [
    (b"\xff{}", "not_utf8", "line"),
    (b"{", "not_json", "line"),
    (b"[1]", "not_object", "line"),
    (b"[" * 100_000, "not_json", "line"),
    ({}, "messages_missing", "messages"),
    ({"messages": {}}, "messages_type", "messages"),
    ({"messages": []}, "messages_empty", "messages"),
    (_line(extra=1), "key_unknown", "extra"),
    (_line(**{"my secret text ": 1}), "key_unknown", "(odd name)"),
    (_line(parallel_tool_calls="yes"), "parallel_tool_calls_type", "parallel_tool_calls"),
    ({"messages": ["hi", ANSWER]}, "message_type", "messages[0]"),
    ({"messages": [{"content": "x"}, ANSWER]}, "role_missing", "messages[0].role"),
    ({"messages": [{"role": "robot", "content": "x"}, ANSWER]}, "role_unknown", "messages[0].role"),
    ({"messages": [{**USER, "weight": 1}, ANSWER]}, "key_unknown", "messages[0].weight"),
    ({"messages": [{"role": "user"}, ANSWER]}, "content_missing", "messages[0].content"),
    ({"messages": [{"role": "user", "content": 7}, ANSWER]}, "content_type", "messages[0].content"),
    (_asked(content=[{"type": "image_url"}]), "content_part", "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": "\ud800 half of a pair"}, ANSWER]}, "not_json", "line"),
    ({"messages": [USER, {**ANSWER, "weight": 2}]}, "weight_value", "messages[1].weight"),
    ({"messages": [USER, {**ANSWER, "weight": True}]}, "weight_value", "messages[1].weight"),
    ({"messages": [USER, {**ANSWER, "weight": [1]}]}, "weight_value", "messages[1].weight"),
    ({"messages": [USER, {**ANSWER, "weight": {}}]}, "weight_value", "messages[1].weight"),
    ({"messages": [USER, {**ANSWER, "weight": 0}]}, "weights_all_zero", "messages"),
    ({"messages": [{**USER, "name": "Jane Doe"}, ANSWER]}, "name_value", "messages[0].name"),
    ({"messages": [USER]}, "no_assistant", "messages"),
    ({"messages": [ANSWER]}, "no_user", "messages"),
    ({"messages": [USER, ANSWER, USER]}, "last_not_assistant", "messages[2]"),
    ({"messages": [USER, {**CALLING, "tool_calls": []}]}, "tool_calls_type", "messages[1].tool_calls"),
    ({"messages": [USER, {**CALLING, "tool_calls": [{"id": 1}]}]}, "tool_call_type", "messages[1].tool_calls[0]"),
    (_called(CALL, CALL), "tool_call_id_repeated", "messages[1].tool_calls"),
    (
        {"messages": [USER, {**CALLING, "tool_calls": [{**CALL, "function": {"name": "look_up", "arguments": "{"}}]}]},
        "tool_arguments",
        "messages[1].tool_calls[0].function.arguments",
    ),
    (_called({**CALL, "function": DEEP}), "tool_arguments", "messages[1].tool_calls[0].function.arguments"),
    ({"messages": [USER, CALLING]}, "tool_undeclared", "messages[1].tool_calls[0].function.name"),
    ({"messages": [USER, CALLING, ANSWER], "tools": [TOOL]}, "tool_call_unanswered", "messages[2]"),
    ({"messages": [USER, RESULT, ANSWER], "tools": [TOOL]}, "tool_reply_unmatched", "messages[1].tool_call_id"),
    ({"messages": [USER, {**RESULT, "tool_call_id": 1}, ANSWER]}, "tool_call_id_missing", "messages[1].tool_call_id"),
    (_line(tools={}), "tools_type", "tools"),
    (_line(tools=[{"type": "web"}]), "tool_type", "tools[0]"),
    (_line(tools=[{"type": "function", "function": {"name": "a b"}}]), "tool_name", "tools[0].function.name"),
    (_line(tools=[_declared(parameters=1)]), "tool_parameters", "tools[0].function.parameters"),
    (_line(tools=[TOOL, TOOL]), "tool_repeated", "tools"),
    ({"messages": [{"role": "user", "content": "short"}, ANSWER]}, "too_short", "messages[0].content"),
    ({"messages": [{"role": "user", "content": "x" * 4_001}, ANSWER]}, "too_long", "messages[0].content"),
    ({"messages": [USER, *[ANSWER, {**USER, "content": "word " * 790}] * 9, ANSWER]}, "too_many_tokens", "messages"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "rule", "field"), BROKEN, ids=[f"{rule}-{field}" for _, rule, field in BROKEN])
def test_a_broken_row_is_named(tmp_path: Path, line: Any, rule: str, field: str) -> None:
    """File, line, field and rule of the one broken row among good ones; never its text."""
    lines = [_line(number) for number in range(12)]
    verdict = check_file(_file(tmp_path, [*lines[:4], line, *lines[4:]]), Validation())
    assert verdict.rows == 13
    (problem,) = verdict.first
    assert (problem.origin, problem.reason, problem.field) == ("train.jsonl:5", rule, field)
    with pytest.raises(BadFileError, match=rf"train\.jsonl: 1 problem in 13 rows \({rule} 1\)") as caught:
        verdict.raise_if_broken()
    assert "secret" not in str(caught.value)


def test_a_bad_file_fails_with_counts_and_the_first_ten(tmp_path: Path) -> None:
    """Twenty broken rows of two kinds: both are counted, ten are listed."""
    lines = [_line(number) for number in range(20)]
    lines += [{"messages": []}] * 15 + [{"messages": [USER]}] * 5
    verdict = check_file(_file(tmp_path, lines), Validation())
    with pytest.raises(BadFileError) as caught:
        verdict.raise_if_broken()
    words = str(caught.value)
    assert "20 problems in 40 rows (messages_empty 15, no_assistant 5)" in words
    assert words.count("train.jsonl:") == 11  # the file itself, and ten rows


def test_too_few_and_repeated_rows(tmp_path: Path) -> None:
    """What only a whole file can break."""
    verdict = check_file(_file(tmp_path, [_line(1), _line(2), _line(1)]), Validation())
    assert verdict.rules == {"duplicate": 1, "too_few_rows": 1}
    assert "is the same as train.jsonl:1" in str(verdict.first[0])


def test_a_good_file_passes(tmp_path: Path) -> None:
    """All that OpenAI accepts: weights, names, tools, text parts, developer messages, null members, blank lines."""
    lines: list[Any] = [_line(number) for number in range(9)]
    lines.append(b"")
    lines.append(
        {
            "messages": [
                {"role": "developer", "content": "Be short."},
                {**USER, "name": "jane_1", "tool_calls": None},
                {**CALLING, "refusal": None},
                RESULT,
                {"role": "assistant", "content": [{"type": "text", "text": text} for text in ("It was ", "shipped.")]},
                USER,
                {**ANSWER, "weight": 0},
                USER,
                {**CALLING, "weight": 1},
            ],
            "tools": [TOOL],
            "parallel_tool_calls": False,
        }
    )  # fmt: skip
    path = _file(tmp_path, lines)
    verdict = check_file(path, Validation(), minimum=10)
    verdict.raise_if_broken()
    assert verdict.rows == 10
    assert verdict.tokens > 100
    assert len(list(chat_lines(_file(tmp_path, [_line(1), b"", _line(2)])))) == 2


def test_tokens_are_counted_by_the_base_models_tokenizer() -> None:
    """The count is the tokenizer's; without one it is an estimate that never is zero."""
    messages = (Message(Role.USER, "How do I reset my password?"), Message(Role.ASSISTANT, "Open the settings."))
    assert token_counter(TOKENIZER)(messages) > estimate(()) == 0
    assert token_counter(None)(messages) == estimate(messages) == 4 + 7 + 4 + 5
    with pytest.raises(ConfigurationError, match=r"tokenizer\.json"):
        token_counter(Path("/nowhere/tokenizer.json"))


def test_the_step_writes_tokens_and_drops_by_rule() -> None:
    """Lengths are checked on the texts as they are trained on."""
    good = Example(id="1", messages=(Message(Role.USER, "x" * 10), Message(Role.ASSISTANT, "y" * 10)), origin="f:1")
    bad = Example(id="2", messages=(Message(Role.USER, "x" * 9), Message(Role.ASSISTANT, "y" * 10)), origin="f:2")
    outcome = Validate(Validation())([good, bad])
    assert [(row.id, row.tokens > 0) for row in outcome.kept] == [("1", True)]
    assert [(drop.reason, drop.field) for drop in outcome.drops] == [("invalid:too_short", "messages[0].content")]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["user", "assistant", "tool"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "tool_calls", "function", "name", "id", "x"]), inner, max_size=4
        )
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(json_values, json_values)
def test_any_json_is_read_or_refused(messages: Any, tools: Any) -> None:
    """Whatever comes: typed messages, or a rule with its field; never another error."""
    try:
        parsed, _ = parse_chat(messages, tools)
    except BrokenRow as exc:
        assert exc.rule
        assert exc.field
    else:
        assert parsed[-1].role is Role.ASSISTANT


def test_half_a_surrogate_pair_is_refused() -> None:
    """A text that no file in UTF-8 can hold: it comes from a column of JSON text that was cut."""
    with pytest.raises(BrokenRow, match="not_utf8"):
        parse_chat([{"role": "user", "content": "half \ud800 of it"}, ANSWER])
    with pytest.raises(BrokenRow, match=r"tool_calls\[0\]\.function: tool_call_type"):
        parse_chat([USER, {**CALLING, "tool_calls": [{**CALL, "function": "look_up"}]}])
