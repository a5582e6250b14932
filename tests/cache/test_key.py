"""The scope: every field that may change an answer is in it, and the fields that may not are not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cache import key
from app.cache.key import IGNORED, Bypass, Keys, exact_key, keys, label
from app.types import CachePolicy, Call, Choice, Operation, Principal, Route
from tests.cache.calls import call_of, make_call, make_choice, make_principal, make_target

ALICE = make_principal()


def scope(principal: Principal, call: Call, choice: Choice) -> bytes | None:
    """The scope of a call, or None for one that is not cached."""
    found = keys(principal, call, choice)
    return found.scope if isinstance(found, Keys) else None


def reason(call: Call) -> Bypass | None:
    """Why a call is not cached, or None."""
    found = keys(ALICE, call, make_choice())
    return found if isinstance(found, Bypass) else None


DIFFERENT_FIELDS: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.9,
    "seed": 7,
    "max_tokens": 5,
    "max_completion_tokens": 6,
    "stop": ["x"],
    "presence_penalty": 1,
    "frequency_penalty": 1,
    "logit_bias": {"5": 100},
    "response_format": {"type": "json_object"},
    "tool_choice": "none",
    "parallel_tool_calls": False,
    "reasoning_effort": "low",
    "verbosity": "low",
    "service_tier": "flex",
    "modalities": ["text"],
    "prediction": {"type": "content", "content": "x"},
    "web_search_options": {},
    "guided_regex": "a+",
    "chat_template_kwargs": {"thinking": True},
    "safety_identifier": "s",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "functions": [{"name": "f"}],
    "function_call": "auto",
    "best_of": 2,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "echo": True,
    "suffix": "x",
}


@pytest.mark.parametrize("field", sorted(DIFFERENT_FIELDS))
def test_each_field_of_the_body_is_in_the_scope(field: str) -> None:
    """One field more or another value of it is another scope."""
    base = scope(ALICE, make_call(), make_choice())
    changed = scope(ALICE, make_call(**{field: DIFFERENT_FIELDS[field]}), make_choice())
    assert base is not None
    assert changed is not None
    assert changed != base


@pytest.mark.parametrize(
    "choice",
    [
        make_choice(variant="candidate"),
        make_choice(targets=(make_target("b" * 64),)),
        make_choice(targets=(make_target("a" * 12 + "b" * 52),)),
        make_choice(targets=(make_target(upstream="other"),)),
        make_choice(targets=(make_target(model="other"),)),
        make_choice(targets=(make_target(adapter=None),)),
        make_choice(targets=(make_target(), make_target("b" * 64))),
        make_choice(route=Route("other", None, (), cache=CachePolicy(exact=True))),
        make_choice(route=Route("support", "acme", (), cache=CachePolicy(exact=True))),
    ],
)
def test_each_part_of_the_choice_is_in_the_scope(choice: Choice) -> None:
    """Another route, variant, upstream, model or adapter is another scope."""
    assert scope(ALICE, make_call(), choice) != scope(ALICE, make_call(), make_choice())


def test_tenant_and_operation_are_in_the_scope() -> None:
    """Another tenant, or the same words as a completion, are another scope."""
    base = scope(ALICE, make_call(), make_choice())
    assert scope(make_principal("bloom"), make_call(), make_choice()) != base
    body = {"model": "support", "prompt": "x", "messages": [{"role": "user", "content": "x"}]}
    both = {
        scope(ALICE, call_of(body, operation), make_choice()) for operation in (Operation.CHAT, Operation.COMPLETIONS)
    }
    assert len(both) == 2


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "Q"}],
        [{"role": "system", "content": "Be rude."}, {"role": "user", "content": "Q"}],
        [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Q"}],
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Q", "name": "bob"}],
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": [{"type": "text", "text": "Q"}]}],
        [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "A"},
            {"role": "assistant", "content": "B"},
            {"role": "user", "content": "Q"},
        ],
    ],
)
def test_system_prompt_and_history_are_in_the_scope(messages: list[Any]) -> None:
    """Another system prompt, another history or another shape of the message is another scope."""
    assert scope(ALICE, make_call("Q", messages=messages), make_choice()) != scope(ALICE, make_call("Q"), make_choice())


@pytest.mark.parametrize("field", sorted(IGNORED - {"model"}))
def test_fields_that_do_not_change_the_answer_are_not_in_the_scope(field: str) -> None:
    """Streaming, its options, the end user and bookkeeping leave the scope alone."""
    values: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}, "user": "bob"}
    value = values.get(field, {"a": "b"})
    assert scope(ALICE, make_call(**{field: value}), make_choice()) == scope(ALICE, make_call(), make_choice())


def variations() -> list[tuple[Principal, Call, Choice]]:
    """The usual call, each time with one thing changed that is a part of the scope."""
    adapter = make_target().adapter
    assert adapter is not None
    choices = [
        make_choice(route=replace(make_choice().route, name="other")),
        make_choice(route=replace(make_choice().route, tenant_id="acme")),
        make_choice(variant="candidate"),
        make_choice(targets=(make_target(upstream="other"),)),
        make_choice(targets=(make_target(model="other"),)),
        make_choice(targets=(make_target(adapter=replace(adapter, sha256="b" * 64)),)),
        make_choice(targets=(make_target(adapter=replace(adapter, id="acme--other@aaaaaaaaaaaa")),)),
    ]
    calls = [
        make_call(messages=[{"role": "user", "content": "How do I reset my password?"}]),
        make_call(temperature=1),
        call_of({name: value for name, value in top_p_for_temperature().items() if name != "temperature"}),
    ]
    return [
        (make_principal("bloom"), make_call(), make_choice()),
        *((ALICE, make_call(), choice) for choice in choices),
        *((ALICE, call, make_choice()) for call in calls),
    ]


def top_p_for_temperature() -> dict[str, Any]:
    """The usual body with the value of `temperature` under another name."""
    return {**msgspec.json.decode(make_call().body), "top_p": 0}


@pytest.mark.parametrize("function", ["_scope_parts", "_target_parts"])
def test_a_scope_with_any_part_left_out_would_be_caught(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    """Mutants: without any one part of the digest, some pair of calls that must not share an answer would."""
    parts: Callable[..., Iterable[bytes]] = getattr(key, function)
    arguments = (ALICE, make_call(), make_choice(), None) if function == "_scope_parts" else (make_target(),)
    count = len(list(parts(*arguments)))
    base, others = (ALICE, make_call(), make_choice()), variations()
    assert scope(*base) not in {scope(*other) for other in others}
    for left_out in range(function == "_scope_parts", count):  # the first part of the scope is the digest's version

        def mutant(*given: Any, left_out: int = left_out) -> Iterable[bytes]:
            return (part for place, part in enumerate(parts(*given)) if place != left_out)

        monkeypatch.setattr(key, function, mutant)
        assert scope(*base) in {scope(*other) for other in others}, f"part {left_out} of {function} is not covered"


def test_the_turn_is_in_the_exact_key_only() -> None:
    """Two questions share a scope; white space around and composition of accents do not make two."""
    one, other = keys(ALICE, make_call("A"), make_choice()), keys(ALICE, make_call("B"), make_choice())
    assert not isinstance(one, Bypass)
    assert not isinstance(other, Bypass)
    assert one.scope == other.scope
    assert one.exact != other.exact
    assert exact_key(one.scope, " caf\u00e9\n") == exact_key(one.scope, "cafe\u0301")
    assert exact_key(one.scope, "US") != exact_key(one.scope, "us")
    assert exact_key(one.scope, "a") != exact_key(other.scope[::-1], "a")


def test_key_order_does_not_matter() -> None:
    """The same JSON in another order is the same scope."""
    one = make_call(response_format={"type": "json_schema", "json_schema": {"name": "a", "strict": True}})
    other = make_call(response_format={"json_schema": {"strict": True, "name": "a"}, "type": "json_schema"})
    assert scope(ALICE, one, make_choice()) == scope(ALICE, other, make_choice())


def test_earlier_parts_of_a_message_are_context() -> None:
    """Of several text parts the last is the turn and the others are in the scope."""

    def asked(*texts: str) -> Any:
        parts = [{"type": "text", "text": text} for text in texts]
        return keys(ALICE, make_call(messages=[{"role": "user", "content": parts}]), make_choice())

    assert asked("document", "question").turn == "question"
    assert asked("document", "question").scope == asked("document", "other").scope
    assert asked("document", "question").scope != asked("another", "question").scope


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"n": 2}, Bypass.CHOICES),
        ({"logprobs": True}, Bypass.LOGPROBS),
        ({"top_logprobs": 2}, Bypass.LOGPROBS),
        ({"messages": []}, Bypass.NO_TURN),
        ({"messages": [{"role": "assistant", "content": "x"}]}, Bypass.NO_TURN),
        ({"messages": [{"role": "user", "content": "  "}]}, Bypass.NO_TURN),
        ({"messages": [{"role": "user", "content": None}]}, Bypass.NO_TURN),
        ({"messages": [{"role": "user", "content": []}]}, Bypass.NO_TURN),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, Bypass.NO_TURN),
        ({"messages": "x"}, Bypass.NO_TURN),
        ({"messages": ["x"]}, Bypass.NO_TURN),
        ({"logprobs": False}, None),
        ({"tools": [{"type": "function"}]}, None),
        ({"temperature": 2}, None),
    ],
)
def test_what_is_not_cacheable_says_why(fields: dict[str, Any], why: Bypass | None) -> None:
    """Several choices, log probabilities and calls without a closing text turn go upstream."""
    assert reason(make_call(**fields)) is why


def test_embeddings_are_not_cached() -> None:
    """They have no turn, and are cheap."""
    assert reason(call_of({"model": "m", "input": "x"}, Operation.EMBEDDINGS)) is Bypass.OPERATION


def test_labels_name_what_an_answer_was_made_by() -> None:
    """Route, variant, adapter and version are found again by their digests; a target without adapter has that of ""."""
    found = keys(ALICE, make_call(), make_choice())
    assert isinstance(found, Keys)
    version = make_target().adapter
    assert version is not None
    names = ("support", "champion", "support", version.id)
    assert str(found.labels) == ".".join(map(label, names))
    plain = keys(ALICE, make_call(), make_choice(targets=(make_target(adapter=None),)))
    assert isinstance(plain, Keys)
    assert plain.labels.adapter == plain.labels.version == label("")


def test_completions_are_cached_by_their_prompt() -> None:
    """A text prompt is the turn; several prompts or token ids have none."""
    for prompt, why in (("Once upon", None), (["Once"], Bypass.NO_TURN), ([1, 2], Bypass.NO_TURN)):
        assert reason(call_of({"model": "m", "prompt": prompt}, Operation.COMPLETIONS)) is why
    found = keys(ALICE, call_of({"model": "m", "prompt": "Once"}, Operation.COMPLETIONS), make_choice())
    assert not isinstance(found, Bypass)
    assert found.turn == "Once"


@pytest.mark.parametrize(("field", "raw"), [("messages", b'[{"role":"user","content":"\xff"}]'), ("seed", b"1e999")])
def test_what_cannot_be_read_with_certainty_is_not_cached(field: str, raw: bytes) -> None:
    """Text that is no UTF-8 and numbers out of range are left to the upstream."""
    call = make_call()
    call = replace(call, fields={**call.fields, field: msgspec.Raw(raw)})
    assert keys(ALICE, call, make_choice()) is Bypass.UNREADABLE
    assert scope(ALICE, call, make_choice()) is None


JSON = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4), st.lists, max_leaves=4)
FIELDS = st.dictionaries(st.text(min_size=1, max_size=5), JSON, max_size=4)


@given(FIELDS, st.text(min_size=1, max_size=5), JSON)
def test_any_single_differing_field_is_another_scope(fields: dict[str, Any], name: str, value: Any) -> None:
    """Whatever the other fields hold, adding, changing or removing one of them changes the digest."""
    reserved = IGNORED | {"messages", "logprobs", "top_logprobs", "n"}
    base = {key: kept for key, kept in fields.items() if key not in reserved}
    changed = {**base, name: value} if name not in reserved else base
    one, other = scope(ALICE, make_call(**base), make_choice()), scope(ALICE, make_call(**changed), make_choice())
    same = msgspec.json.encode(base, order="sorted") == msgspec.json.encode(changed, order="sorted")
    assert (one == other) is same


@given(st.lists(st.text(max_size=3), min_size=2, max_size=2), st.lists(st.text(max_size=3), min_size=2, max_size=2))
def test_fields_cannot_run_into_each_other(one: list[str], other: list[str]) -> None:
    """Moving a character from one part to the next is another scope."""
    digests = {
        scope(make_principal(tenant), make_call(), make_choice(variant=variant)) for tenant, variant in (one, other)
    }
    assert len(digests) == (1 if one == other else 2)
