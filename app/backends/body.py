"""The body that goes upstream: the caller's own values, edited only where they must be.

Values are copied as raw JSON and never re-encoded, so numbers, key order and unknown fields survive. Changed are: the
model's name; `stream_options.include_usage`, because usage must be known; on our own servers the salt of the prefix
cache, which is the tenant's, so that no tenant can time another's prompts; the length of the answer, where the caller's
budget pays for no longer one; and what `guard` takes away. Repeated keys collapse to the last one, so what the gateway
checked is what the upstream reads.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec

from app.backends.guard import check, stripped
from app.backends.metering import NULL
from app.types import Call, Endpoint, Operation

_INCLUDE = msgspec.Raw(b'{"include_usage":true}')
_LONGEST = ("max_tokens", "max_completion_tokens")
_OPENAI = "api.openai.com"
_INTEGER = msgspec.json.Decoder(int)
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def outgoing(endpoint: Endpoint, call: Call) -> bytes:
    """The bytes to send; raises InvalidRequest for what our own servers must not be asked."""
    fields = stripped(call.fields)
    fields["model"] = msgspec.Raw(msgspec.json.encode(endpoint.model))
    if call.stream:
        fields["stream_options"] = _with_usage(call.fields.get("stream_options"))
    if call.shortened_to is not None:
        _shorten(fields, call, call.shortened_to, endpoint)
    if endpoint.replica is not None:
        check(fields)
        if endpoint.cache_salt is not None and call.operation is not Operation.EMBEDDINGS:
            fields["cache_salt"] = msgspec.Raw(msgspec.json.encode(endpoint.cache_salt))
    return msgspec.json.encode(fields)


def _shorten(fields: dict[str, msgspec.Raw], call: Call, most: int, endpoint: Endpoint) -> None:
    """Under the name that the caller used; without one, under the name that is understood there.

    OpenAI's reasoning models refuse `max_tokens`, and many other services know nothing else.
    """
    known = _LONGEST if call.operation is Operation.CHAT else _LONGEST[:1]
    given = {name: fields[name] for name in known if bytes(fields.get(name, NULL)) != b"null"}
    if not given:
        is_openai = call.operation is Operation.CHAT and urlsplit(endpoint.base_url).hostname == _OPENAI
        given = {_LONGEST[is_openai]: msgspec.Raw(b"%d" % most)}
    for name, value in given.items():
        fields[name] = msgspec.Raw(b"%d" % min(most, _INTEGER.decode(value)))


def _with_usage(options: msgspec.Raw | None) -> msgspec.Raw:
    if options is None or bytes(options) == b"null":
        return _INCLUDE
    return msgspec.Raw(msgspec.json.encode({**_OBJECT.decode(options), "include_usage": True}))
