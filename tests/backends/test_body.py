"""What goes upstream: the caller's own values, without what reaches into the serving machine."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.backends.body import STRIPPED, outgoing
from app.errors import InvalidRequest
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


@pytest.mark.parametrize("name", sorted(STRIPPED))
def test_dangerous_fields_are_dropped(name: str) -> None:
    """Templates, pickles, salts and queues of the serving machine are not for callers."""
    assert name not in _sent(**{name: "x"})
    assert name not in _sent(replica="http://up", **{name: {"a": 1}})


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
