"""What a caller's fields may ask of our own servers: nothing that reaches into the machine, nothing without a bound.

The list is made from the vulnerabilities of vLLM (templates and pickled tensors that run, forged transfer handles,
addresses that are fetched from inside, counts that allocate by a caller's number). A provider guards itself; our own
servers stand behind this. Fields that are merely unknown pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec

from app.backends.metering import NULL, UNREADABLE
from app.errors import InvalidRequest

# What no caller may reach through the gateway: code, files, addresses and queues of the serving machine.
STRIPPED = frozenset(
    {
        "add_special_tokens",
        "cache_salt",
        "chat_template",
        "data_parallel_rank",
        "ec_transfer_params",
        "kv_transfer_params",
        "logits_processors",
        "lora_request",
        "media_io_kwargs",
        "mm_processor_kwargs",
        "priority",
        "prompt_embeds",
        "request_id",
        "use_beam_search",
        "vllm_xargs",
    }
)
PARTS = frozenset({"audio_url", "image_url", "input_audio", "input_text", "refusal", "text", "video_url"})
TEMPLATE_SWITCHES = frozenset({"enable_thinking", "thinking", "reasoning_effort"})
MOST_ITEMS = {"stop": 32, "stop_token_ids": 1024, "allowed_token_ids": 1024, "bad_words": 128, "logit_bias": 1024}
HIGHEST = {"top_logprobs": 20, "logprobs": 20, "prompt_logprobs": 20}
MOST_BYTES = {
    "stop": 16 * 1024,
    "bad_words": 16 * 1024,
    "structured_outputs": 64 * 1024,
    "guided_json": 64 * 1024,
    "guided_regex": 4 * 1024,
    "guided_grammar": 64 * 1024,
    "guided_choice": 64 * 1024,
    "response_format": 64 * 1024,
}
_BOUNDED = MOST_ITEMS.keys() | HIGHEST.keys() | MOST_BYTES.keys()
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SCALAR = msgspec.json.Decoder(bool | int | str | None)


class _Message(msgspec.Struct):
    content: msgspec.Raw = NULL


_MESSAGES = msgspec.json.Decoder(list[_Message])
_PARTS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


def stripped(fields: Mapping[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """The fields that may go upstream at all."""
    kept = {name: value for name, value in fields.items() if name not in STRIPPED}
    if "chat_template_kwargs" in kept:
        kept["chat_template_kwargs"] = _switches(kept["chat_template_kwargs"])
    return kept


def check(fields: Mapping[str, msgspec.Raw]) -> None:
    """Raise InvalidRequest, naming the field, for what one of our own servers must not be asked."""
    for name in fields.keys() & _BOUNDED:
        with _readable(name):
            _check_size(name, bytes(fields[name]))
    if "messages" in fields:
        with _readable("messages"):
            _check_parts(bytes(fields["messages"]))


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """What cannot be read (another type, a number past all bounds) is the caller's mistake, by its name."""
    try:
        yield
    except (*UNREADABLE, OverflowError) as exc:
        raise InvalidRequest(f"{name}: this value cannot be read", param=name) from exc


def _switches(raw: msgspec.Raw) -> msgspec.Raw:
    """Only plain switches reach a chat template: it is code, and what it is given steers it."""
    try:
        given = _OBJECT.decode(raw)
        kept = {name: _SCALAR.decode(value) for name, value in given.items() if name in TEMPLATE_SWITCHES}
    except UNREADABLE:
        expected = f"an object with plain values for: {', '.join(sorted(TEMPLATE_SWITCHES))}"
        raise InvalidRequest(f"chat_template_kwargs: expected {expected}", param="chat_template_kwargs") from None
    return msgspec.Raw(msgspec.json.encode(kept))


def _check_size(name: str, raw: bytes) -> None:
    if len(raw) > MOST_BYTES.get(name, len(raw)):
        raise InvalidRequest(f"{name}: expected at most {MOST_BYTES[name]} bytes", param=name)
    value = msgspec.json.decode(raw) if name in MOST_ITEMS or name in HIGHEST else None
    if isinstance(value, list | dict) and len(value) > MOST_ITEMS.get(name, len(value)):
        raise InvalidRequest(f"{name}: expected at most {MOST_ITEMS[name]} items", param=name)
    if name in HIGHEST and isinstance(value, int) and not 0 <= value <= HIGHEST[name]:
        raise InvalidRequest(f"{name}: expected a whole number from 0 to {HIGHEST[name]}", param=name)


def _check_parts(messages: bytes) -> None:
    """Only text and `data:` media may go to our own servers.

    They would fetch an address from inside our network, unpickle tensors, and keep media under a caller's `uuid`, which
    another tenant could name.
    """
    if messages.count(b"[") < 2:
        return
    for message in _MESSAGES.decode(messages):
        content = bytes(message.content)
        for part in _PARTS.decode(content) if content.startswith(b"[") else ():
            kind = msgspec.json.decode(part.get("type", NULL))
            if not isinstance(kind, str) or kind not in PARTS or "uuid" in part:
                expected = f"parts of type {', '.join(sorted(PARTS))}, without a uuid"
                raise InvalidRequest(f"messages: expected {expected}", param="messages")
            if any(_is_remote(value) for name, value in part.items() if name.endswith("_url")):
                raise InvalidRequest("messages: media must be given inline, as a data: URL", param="messages")


def _is_remote(value: msgspec.Raw) -> bool:
    address = msgspec.json.decode(value)
    if isinstance(address, Mapping):
        address = address.get("url")
    return not (isinstance(address, str) and address.startswith("data:"))
