"""Reading request bodies."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.routing.call import Bounds, parse
from app.types import Call, Operation, Request

FINITE = st.floats(allow_nan=False, allow_infinity=False)  # JSON has no others
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello there"}]}


async def read(body: Any, operation: Operation = Operation.CHAT) -> Call:
    """Parse one body."""

    async def given_body() -> bytes:
        return body if isinstance(body, bytes) else json.dumps(body).encode()

    request = Request("req_1", operation, {b"cache-control": b"No-Store"}, given_body, 0.0)
    return await parse(request, Bounds(max_output_tokens=1000, max_choices=4))


async def test_what_the_gateway_decides_by_is_typed() -> None:
    """Model, stream, usage wish, bounds and user come out; the bytes stay as they were."""
    body = CHAT | {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 7, "n": 2, "user": "u"}
    call = await read(body)
    assert (call.route, call.stream, call.include_usage, call.max_tokens, call.choices, call.user) == (
        "m", True, True, 7, 2, "u",
    )  # fmt: skip
    assert call.body == json.dumps(body).encode()
    assert call.cache_control == "no-store"
    assert set(call.fields) == set(body)


async def test_the_newer_name_of_max_tokens_wins() -> None:
    """`max_completion_tokens` is read before `max_tokens`, and named in its own refusal."""
    assert (await read(CHAT | {"max_tokens": 5, "max_completion_tokens": 9})).max_tokens == 9
    with pytest.raises(InvalidRequest) as caught:
        await read(CHAT | {"max_completion_tokens": 0})
    assert caught.value.param == "max_completion_tokens"


@pytest.mark.parametrize(
    ("operation", "body", "param"),
    [
        (Operation.CHAT, {"model": "m", "messages": [{"role": "user", "content": [{"text": "x"}]}]}, "type"),
        (Operation.COMPLETIONS, {"model": "m", "prompt": ""}, "prompt"),
        (Operation.COMPLETIONS, {"model": "m"}, "prompt"),
        (Operation.COMPLETIONS, {"model": "m", "prompt": ["a"] * 5}, "prompt"),
        (Operation.COMPLETIONS, {"model": "m", "prompt": "x", "best_of": 99}, "best_of"),
        (Operation.EMBEDDINGS, {"model": "m", "input": []}, "input"),
        (Operation.EMBEDDINGS, {"model": "m", "input": {"a": 1}}, "input"),
    ],
)
async def test_refusals_name_the_field(operation: Operation, body: Any, param: str) -> None:
    """Each refusal says which field is wrong."""
    with pytest.raises(InvalidRequest) as caught:
        await read(body, operation)
    assert caught.value.param is not None
    assert caught.value.param.endswith(param)


async def test_token_estimates_grow_with_the_text() -> None:
    """Longer prompts are estimated longer; pictures count a fixed share; token ids count themselves."""
    short, long = await read(CHAT), await read({**CHAT, "messages": [{"role": "user", "content": "word " * 400}]})
    assert 0 < short.prompt_tokens_estimate < 30
    assert long.prompt_tokens_estimate >= 400
    picture = {"type": "image_url", "image_url": {"url": "data:" + "A" * 100_000}}
    seen = await read({**CHAT, "messages": [{"role": "user", "content": [{"type": "text", "text": "what"}, picture]}]})
    assert 1_000 <= seen.prompt_tokens_estimate < 1_100
    ids = await read({"model": "m", "input": [[1, 2, 3], [4]]}, Operation.EMBEDDINGS)
    assert ids.prompt_tokens_estimate == 4


@pytest.mark.parametrize("name", ["tools", "functions", "response_format"])
async def test_what_stands_beside_the_messages_is_estimated_too(name: str) -> None:
    """Whoever puts its text into a tool's description holds money for it all the same; so do an answer's tool calls."""
    plain = (await read(CHAT)).prompt_tokens_estimate
    beside = await read({**CHAT, name: [{"type": "function", "function": {"description": "word " * 400}}]})
    assert beside.prompt_tokens_estimate >= plain + 400
    called = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "word " * 400}}]
    before = {"role": "assistant", "content": None, "tool_calls": called}
    assert (await read({**CHAT, "messages": [before]})).prompt_tokens_estimate >= 400


@given(st.binary(max_size=200))
async def test_no_bytes_crash_the_parser(body: bytes) -> None:
    """Any bytes are either a call or an InvalidRequest that does not repeat them."""
    try:
        await read(body)
    except InvalidRequest as exc:
        assert exc.status == 400


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | FINITE | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(["messages", "stream", "n", "max_tokens", "user", "stream_options", "model", "unknown"]),
)
async def test_no_json_value_crashes_the_parser(value: Any, field: str) -> None:
    """Any JSON value in any field is accepted or refused by name; unknown fields are never refused."""
    try:
        await read(CHAT | {field: value})
    except InvalidRequest as exc:
        assert field != "unknown"
        assert exc.param is None or exc.param.startswith(field)


async def test_bytes_that_are_no_text_are_refused_wherever_they_are() -> None:
    """Fields that the gateway passes on unread too: no upstream and no check behind this one sees them."""
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"stop":"\xff"}'
    with pytest.raises(InvalidRequest, match="UTF-8 at byte"):
        await read(body)
