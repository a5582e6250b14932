"""Which answers may be kept, and what is read of a kept one. Pure.

Kept is only what a later caller could have got just so: complete, finished by itself, with text. Refusals, tool calls,
truncated, filtered and empty answers are not.
"""

from __future__ import annotations

from typing import Any

import msgspec

from app.types import Usage


class _Message(msgspec.Struct):
    role: str = "assistant"
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None
    audio: Any = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None
    message: _Message | None = None
    text: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Answer(msgspec.Struct):
    object: str = ""
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_ANSWER = msgspec.json.Decoder(_Answer)
_OBJECTS = ("chat.completion", "text_completion")


def storable(body: bytes) -> bool:
    """Whether a whole answer body may be replayed to a later caller."""
    answer = _decoded(body)
    if answer is None or answer.error is not None or answer.object not in _OBJECTS or not answer.choices:
        return False
    return all(_is_finished(choice, answer.object) for choice in answer.choices)


def usage_of(body: bytes) -> Usage | None:
    """What an answer said it cost, or None where it said nothing."""
    answer = _decoded(body)
    if answer is None or answer.usage is None:
        return None
    details = answer.usage.prompt_tokens_details or _Details()
    return Usage(answer.usage.prompt_tokens, answer.usage.completion_tokens, details.cached_tokens or 0)


def with_usage(body: bytes, usage: Usage) -> bytes:
    """The same answer with a usage block; for streams whose caller had not asked for one."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    counted = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    return msgspec.json.encode({**fields, "usage": counted})


def text_of(body: bytes) -> str:
    """The words of a storable answer."""
    answer = _decoded(body) or _Answer()
    return "".join((choice.message.content if choice.message else choice.text) or "" for choice in answer.choices)


def _is_finished(choice: _Choice, kind: str) -> bool:
    if choice.finish_reason != "stop":
        return False
    if kind == "text_completion":
        return bool(choice.text)
    said = choice.message
    if said is None or said.tool_calls or said.function_call or said.refusal or said.audio:
        return False
    return bool(said.content)


def _decoded(body: bytes) -> _Answer | None:
    try:
        return _ANSWER.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
