"""Reading a request body: a typed partial decode that names the field that is wrong and never repeats a value.

The caller's own bytes stay as they are for the relay; only what the gateway decides by is typed here. Unknown fields
are kept and passed on. Messages of msgspec name places and types, not values, so they are safe to return.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from app.errors import InvalidRequest
from app.types import Call, Operation, Request

IMAGE_TOKENS = 1_000  # a picture's share of the prompt estimate; the upstream's own count replaces it
NULL = msgspec.Raw(b"null")
FRAME_TOKENS = 4  # role and separators around one message
_READ = ("tools", "functions", "response_format")


@dataclass(frozen=True, slots=True)
class Bounds:
    """The largest values that a caller may ask for."""

    max_output_tokens: int = 131_072
    max_choices: int = 8


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Message(msgspec.Struct):
    role: str
    content: msgspec.Raw = NULL
    tool_calls: msgspec.Raw = NULL


class _Part(msgspec.Struct):
    type: str
    text: str | None = None


class _Chat(msgspec.Struct):
    model: str
    messages: list[_Message]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    user: str | None = None


class _Completion(msgspec.Struct):
    model: str
    prompt: str | list[str | int | list[int]]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None
    user: str | None = None


class _Embedding(msgspec.Struct):
    model: str
    input: str | list[str | int | list[int]]
    user: str | None = None


_RAW = msgspec.json.Decoder(dict[str, msgspec.Raw])
_CHAT = msgspec.json.Decoder(_Chat)
_COMPLETION = msgspec.json.Decoder(_Completion)
_EMBEDDING = msgspec.json.Decoder(_Embedding)
_PARTS = msgspec.json.Decoder(list[_Part])


async def parse(request: Request, bounds: Bounds) -> Call:
    """The call that a request body makes; raises InvalidRequest that names the field, BodyTooLarge."""
    body = await request.read()
    cache_control = request.headers.get(b"cache-control", b"").decode("latin-1").lower()
    fields = _decode(_RAW, body)
    _check_utf8(body)
    if request.operation is Operation.CHAT:
        return _chat(body, fields, bounds, cache_control)
    if request.operation is Operation.COMPLETIONS:
        return _completion(body, fields, bounds, cache_control)
    return _embedding(body, fields)


def _check_utf8(body: bytes) -> None:
    """Raw fields are not looked into, so wrong bytes in them would be found late, or by an upstream."""
    if body.isascii():
        return
    try:
        body.decode()
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"The body is not UTF-8 at byte {exc.start}.", code="invalid_json") from None


def _decode(decoder: Any, body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as exc:
        what, _, place = str(exc).partition(" - at `$")
        missing = what.split("`")[1] if "missing required field" in what else ""
        field = ".".join(part for part in (place.rstrip("`").lstrip("."), missing) if part)
        if not field and decoder is _RAW:
            raise InvalidRequest("The body must be a JSON object.") from None
        raise InvalidRequest(f"{field or 'body'}: {what}", param=field or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidRequest(f"The body is not valid JSON: {exc}", code="invalid_json") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.", code="invalid_json") from None


def _chat(body: bytes, fields: dict[str, msgspec.Raw], bounds: Bounds, cache_control: str) -> Call:
    chat: _Chat = _decode(_CHAT, body)
    if not chat.messages:
        raise InvalidRequest("messages: expected at least one message", param="messages")
    wanted = chat.max_completion_tokens if chat.max_completion_tokens is not None else chat.max_tokens
    name = "max_completion_tokens" if chat.max_completion_tokens is not None else "max_tokens"
    return Call(
        operation=Operation.CHAT,
        route=chat.model,
        body=body,
        fields=fields,
        stream=bool(chat.stream),
        include_usage=bool(chat.stream_options and chat.stream_options.include_usage),
        max_tokens=_within(wanted, name, bounds.max_output_tokens),
        choices=_within(chat.n, "n", bounds.max_choices) or 1,
        user=chat.user or None,
        prompt_tokens_estimate=sum(map(_message_tokens, chat.messages)) + _given_tokens(fields) + 3,
        cache_control=cache_control,
    )


def _completion(body: bytes, fields: dict[str, msgspec.Raw], bounds: Bounds, cache_control: str) -> Call:
    completion: _Completion = _decode(_COMPLETION, body)
    prompts = len(completion.prompt) if _several(completion.prompt) else 1
    if not completion.prompt:
        raise InvalidRequest("prompt: expected some text or tokens", param="prompt")
    if prompts > bounds.max_choices:
        raise InvalidRequest(f"prompt: expected at most {bounds.max_choices} prompts", param="prompt")
    best_of = _within(completion.best_of, "best_of", bounds.max_choices) or 1
    n = _within(completion.n, "n", bounds.max_choices) or 1
    return Call(
        operation=Operation.COMPLETIONS,
        route=completion.model,
        body=body,
        fields=fields,
        stream=bool(completion.stream),
        include_usage=bool(completion.stream_options and completion.stream_options.include_usage),
        max_tokens=_within(completion.max_tokens, "max_tokens", bounds.max_output_tokens),
        choices=max(n, best_of) * prompts,
        user=completion.user or None,
        prompt_tokens_estimate=_input_tokens(completion.prompt),
        cache_control=cache_control,
    )


def _embedding(body: bytes, fields: dict[str, msgspec.Raw]) -> Call:
    embedding: _Embedding = _decode(_EMBEDDING, body)
    if not embedding.input:
        raise InvalidRequest("input: expected some text or tokens", param="input")
    return Call(
        operation=Operation.EMBEDDINGS,
        route=embedding.model,
        body=body,
        fields=fields,
        stream=False,
        include_usage=False,
        max_tokens=0,
        choices=1,
        user=embedding.user or None,
        prompt_tokens_estimate=_input_tokens(embedding.input),
    )


def _within(value: int | None, field: str, largest: int) -> int | None:
    if value is not None and not 1 <= value <= largest:
        raise InvalidRequest(f"{field}: expected a whole number from 1 to {largest}", param=field)
    return value


def _several(value: str | list[Any]) -> bool:
    return isinstance(value, list) and bool(value) and not isinstance(value[0], int)


def _message_tokens(message: _Message) -> int:
    calls = 0 if message.tool_calls is NULL else len(bytes(message.tool_calls)) // 4
    return _content_tokens(message.content) + calls


def _given_tokens(fields: dict[str, msgspec.Raw]) -> int:
    """What the model reads beside the messages: a caller could otherwise put a whole book there and hold nothing."""
    return sum(len(bytes(fields[name])) // 4 for name in _READ if name in fields)


def _content_tokens(content: msgspec.Raw) -> int:
    raw = bytes(content)
    if not raw.startswith(b"["):
        return len(raw) // 4 + FRAME_TOKENS
    parts: list[_Part] = _decode(_PARTS, raw)
    texts = sum(len(part.text) // 4 + 1 for part in parts if part.text is not None)
    return texts + IMAGE_TOKENS * sum(part.text is None for part in parts) + FRAME_TOKENS


def _input_tokens(value: str | list[Any]) -> int:
    if isinstance(value, str):
        return len(value) // 4 + 1
    if value and isinstance(value[0], int):
        return len(value)
    return sum(_input_tokens(item) for item in value)
