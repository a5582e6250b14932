"""The body that goes upstream: the caller's own values, edited only where they must be.

Values are copied as raw JSON and never re-encoded, so numbers, key order and unknown fields survive. Changed are: the
model's name; `stream_options.include_usage`, because usage must be known; and fields that reach into the server itself
(a caller's chat template, pickled embeddings, another tenant's cache salt) are dropped. Repeated keys collapse to the
last one, so what the gateway checked is what the upstream reads.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from app.backends.metering import NULL
from app.errors import InvalidRequest
from app.types import Call, Endpoint

# What no caller may reach through the gateway: code, files, addresses and queues of the serving machine.
STRIPPED = frozenset(
    {
        "add_special_tokens",
        "cache_salt",
        "chat_template",
        "chat_template_kwargs",
        "data_parallel_rank",
        "kv_transfer_params",
        "logits_processors",
        "lora_request",
        "media_io_kwargs",
        "mm_processor_kwargs",
        "priority",
        "prompt_embeds",
        "request_id",
        "vllm_xargs",
    }
)
_INCLUDE = msgspec.Raw(b'{"include_usage":true}')
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Message(msgspec.Struct):
    content: msgspec.Raw = NULL


_MESSAGES = msgspec.json.Decoder(list[_Message])
_PARTS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


def outgoing(endpoint: Endpoint, call: Call) -> bytes:
    """The bytes to send; raises InvalidRequest for remote media on our own servers."""
    fields = {name: value for name, value in call.fields.items() if name not in STRIPPED}
    fields["model"] = msgspec.Raw(msgspec.json.encode(endpoint.model))
    if call.stream:
        fields["stream_options"] = _with_usage(call.fields.get("stream_options"))
    if endpoint.replica is not None and "messages" in fields:
        _refuse_remote_media(bytes(fields["messages"]))
    return msgspec.json.encode(fields)


def _with_usage(options: msgspec.Raw | None) -> msgspec.Raw:
    if options is None or bytes(options) == b"null":
        return _INCLUDE
    return msgspec.Raw(msgspec.json.encode({**_OBJECT.decode(options), "include_usage": True}))


def _refuse_remote_media(messages: bytes) -> None:
    """Only `data:` media may go to our own servers: they would fetch an address from inside our network."""
    if b"_url" not in messages and b"\\u" not in messages:
        return
    for message in _MESSAGES.decode(messages):
        content = bytes(message.content)
        for part in _PARTS.decode(content) if content.startswith(b"[") else ():
            if any(_is_remote(value) for name, value in part.items() if name.endswith("_url")):
                raise InvalidRequest("messages: media must be given inline, as a data: URL", param="messages")


def _is_remote(value: msgspec.Raw) -> bool:
    address = msgspec.json.decode(value)
    if isinstance(address, Mapping):
        address = address.get("url")
    return not (isinstance(address, str) and address.startswith("data:"))
