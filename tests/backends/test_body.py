"""What goes upstream: the caller's own values, without what reaches into the serving machine."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.backends.body import outgoing
from app.backends.guard import HIGHEST, MOST_ITEMS, STRIPPED, check, stripped
from app.errors import InvalidRequest
from app.types import Operation
from tests.backends.calls import call, endpoint

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_NAMES = st.text(max_size=8).filter(
    lambda name: name not in {"model", "messages", "stream", "stream_options", *STRIPPED}
)


def _sent(replica: str | None = None, **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(outgoing(endpoint("http://up", replica=replica, model="exact@1"), call(**fields)))
    return body


@given(st.dictionaries(_NAMES, _VALUES, max_size=6))
def test_unknown_fields_arrive_as_they_were(fields: dict[str, Any]) -> None:
    """Every field that we do not know reaches the upstream with its value."""
    sent = _sent(extra=fields, **{f"x_{name}": value for name, value in fields.items()})
    assert sent["extra"] == fields
    assert {name: sent[f"x_{name}"] for name in fields} == fields


def test_numbers_keep_their_spelling() -> None:
    """Raw values are copied: 1e2, 0.10 and big integers are not re-encoded."""
    asked = call()
    body = b'{"model":"support","messages":[],"temperature":1e-1,"seed":123456789012345678901234567890}'
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    sent = outgoing(endpoint("http://up"), replace(asked, fields=fields))
    assert b'"temperature":1e-1' in sent
    assert b'"seed":123456789012345678901234567890' in sent


@pytest.mark.parametrize(
    ("given", "base_url", "sent"),
    [
        ({"max_tokens": 900}, "http://up", {"max_tokens": 50}),
        ({"max_tokens": 20}, "http://up", {"max_tokens": 20}),
        ({"max_completion_tokens": 900}, "http://up", {"max_completion_tokens": 50}),
        ({"max_tokens": 9, "max_completion_tokens": 900}, "http://up", {"max_tokens": 9, "max_completion_tokens": 50}),
        ({}, "http://up", {"max_tokens": 50}),
        ({"max_tokens": None}, "http://up/v1", {"max_tokens": 50}),
        ({}, "https://api.openai.com/v1", {"max_completion_tokens": 50}),
    ],
)
def test_a_shortened_answer_is_asked_for_in_the_callers_words(
    given: dict[str, Any], base_url: str, sent: dict[str, Any]
) -> None:
    """Never longer than it may be, nor than the caller wanted; without a word of the caller's, in the upstream's."""
    body = json.loads(outgoing(endpoint(base_url), replace(call(**given), shortened_to=50)))
    assert {name: value for name, value in body.items() if name.startswith("max_")} == sent


def test_a_shortened_completion_knows_one_name_only() -> None:
    """Whatever stands under the chat's newer name is none of it."""
    asked = replace(call(max_completion_tokens="many"), operation=Operation.COMPLETIONS, shortened_to=50)
    body = json.loads(outgoing(endpoint("https://api.openai.com/v1"), asked))
    assert (body["max_tokens"], body["max_completion_tokens"]) == (50, "many")


@pytest.mark.parametrize("name", sorted(STRIPPED))
def test_dangerous_fields_are_dropped(name: str) -> None:
    """Templates, pickles, salts and queues of the serving machine are not for callers."""
    assert name not in _sent(**{name: "x"})
    assert name not in _sent(replica="http://up", **{name: {"a": 1}})


def test_a_template_gets_plain_switches_only() -> None:
    """What a chat template is given steers it: known switches with plain values pass, the rest does not."""
    given = {"enable_thinking": False, "chat_template": "{{ x }}", "documents": [1]}
    assert _sent(chat_template_kwargs=given)["chat_template_kwargs"] == {"enable_thinking": False}
    wrongs: tuple[Any, ...] = ({"enable_thinking": {"a": 1}}, [], "x", 1)
    for wrong in wrongs:
        with pytest.raises(InvalidRequest) as caught:
            _sent(chat_template_kwargs=wrong)
        assert caught.value.param == "chat_template_kwargs"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, [str(i) for i in range(most + 1)]) for name, most in MOST_ITEMS.items() if name != "logit_bias"),
        ("logit_bias", {str(i): 1 for i in range(1025)}),
        *((name, value) for name, most in HIGHEST.items() for value in (-1, most + 1)),
        ("guided_regex", "a" * 5000),
        ("structured_outputs", {"regex": "a" * 70_000}),
        ("stop", "x" * 20_000),
    ],
)
def test_our_own_servers_are_asked_for_nothing_without_a_bound(name: str, value: Any) -> None:
    """Counts and sizes that allocate by a caller's number are refused, naming the field; a provider guards itself."""
    with pytest.raises(InvalidRequest) as caught:
        _sent(replica="http://up", **{name: value})
    assert caught.value.param == name
    assert _sent(**{name: value})[name] == value


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("logit_bias", b'{"1":1e999}'),
        ("logprobs", b"1e999"),
        ("chat_template_kwargs", b'{"thinking":1e999}'),
        ("messages", b'[{"content":[{"image_url":"' + b"\xff" + b'"}]}]'),
    ],
)
def test_what_cannot_be_read_is_the_callers_mistake(name: str, raw: bytes) -> None:
    """Its field is named; it is no failure of ours."""
    with pytest.raises(InvalidRequest) as caught:
        check(stripped({name: msgspec.Raw(raw)}))
    assert caught.value.param == name


def test_what_openai_allows_passes() -> None:
    """The usual values of the bounded fields reach our own servers."""
    usual = {"stop": ["a", "b"], "logprobs": True, "top_logprobs": 20, "logit_bias": {"50256": -100}}
    assert _sent(replica="http://up", **usual).items() >= usual.items()


def test_the_prefix_cache_is_salted_by_the_gateway_alone() -> None:
    """A caller's own salt is dropped; our servers get the tenant's, providers and embeddings none."""
    place = endpoint("http://up", replica="http://up", cache_salt="tenant-salt")
    assert json.loads(outgoing(place, call(cache_salt="another")))["cache_salt"] == "tenant-salt"
    assert b"cache_salt" not in outgoing(endpoint("http://up"), call(cache_salt="another"))
    assert b"cache_salt" not in outgoing(place, call(Operation.EMBEDDINGS, input="x"))


def test_the_model_is_ours_to_name() -> None:
    """The upstream is asked for the exact version, whatever the caller called it."""
    assert _sent()["model"] == "exact@1"


def test_usage_is_asked_for_on_streams_only() -> None:
    """`include_usage` is switched on beside the caller's own stream options."""
    assert _sent(stream=True)["stream_options"] == {"include_usage": True}
    assert _sent(stream=True, stream_options=None)["stream_options"] == {"include_usage": True}
    asked = {"include_usage": False, "include_obfuscation": False}
    assert _sent(stream=True, stream_options=asked)["stream_options"] == {
        "include_usage": True,
        "include_obfuscation": False,
    }
    assert "stream_options" not in _sent()


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}},
        {"type": "image_url", "image_url": "file:///etc/passwd"},
        {"type": "video_url", "video_url": {"url": " data:,x"}},
        {"type": "audio_url", "audio_url": {}},
        {"type": "image_url", "image_url": None},
        {"type": "image_url", "image_url": ["http://x"]},
    ],
)
def test_our_own_servers_fetch_no_addresses(part: dict[str, Any]) -> None:
    """A server inside our network would fetch them from there; a provider fetches from its own place."""
    messages = [{"role": "user", "content": [{"type": "text", "text": "see"}, part]}]
    with pytest.raises(InvalidRequest, match="messages"):
        _sent(replica="http://up", messages=messages)
    assert _sent(messages=messages)["messages"] == messages


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_pil", "image_pil": None},
        {"type": "prompt_embeds", "prompt_embeds": "AAAA"},
        {"type": "image_embeds", "image_embeds": "AAAA"},
        {"type": "image_url", "image_url": {"url": "data:,x"}, "uuid": "another-tenants"},
        {"text": "no type"},
        {"type": ["text"], "text": "x"},
    ],
)
def test_our_own_servers_get_parts_of_known_kinds_only(part: dict[str, Any]) -> None:
    """No pickled tensors, and no names of media that another tenant has sent."""
    with pytest.raises(InvalidRequest, match="messages"):
        _sent(replica="http://up", messages=[{"role": "user", "content": [part]}])


def test_an_escaped_key_is_seen_too() -> None:
    r"""`image\u005furl` is `image_url` to the upstream, so it is to us."""
    asked = call(messages=[{"role": "user", "content": [{"type": "x", "image_url": {"url": "http://in.side/"}}]}])
    raw = bytes(asked.fields["messages"]).replace(b"image_url", b"image\\u005furl")
    hidden = replace(asked, fields={**asked.fields, "messages": msgspec.Raw(raw)})
    with pytest.raises(InvalidRequest):
        outgoing(endpoint("http://up", replica="http://up"), hidden)


def test_inline_media_pass() -> None:
    """`data:` media are the caller's own bytes."""
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [{"role": "user", "content": [part]}, {"role": "user", "content": "say image_url"}]
    assert _sent(replica="http://up", messages=messages)["messages"] == messages
