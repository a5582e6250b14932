"""The whole answer out of a relayed event stream, so that streamed answers can be kept like others. Pure.

What is not understood completely is not assembled: an error event, a tool call, a choice that did not finish, a missing
`[DONE]`, log probabilities, or a kind of delta that cannot be joined. The stream is then simply not kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

_KINDS = {"chat.completion.chunk": "chat.completion", "text_completion": "text_completion"}
_HEADS = ("id", "created", "model", "system_fingerprint", "service_tier")
_IGNORED = frozenset({"logprobs", "finish_reason", "index", "delta", "text"})


class _NotWhole(Exception):
    """The stream is not one whole, plain answer."""


def assemble(events: bytes) -> bytes | None:
    """The JSON body that a non-streaming call would have got, or None when the stream is not a whole plain answer."""
    try:
        return _assembled(events)
    except (_NotWhole, msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _assembled(events: bytes) -> bytes:
    head: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    usage: Any = None
    kind = ""
    for chunk in _chunks(events):
        kind = _kind(chunk, kind)
        for name in _HEADS:
            if chunk.get(name) is not None:
                head.setdefault(name, chunk[name])
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices") or ():
            _join(choices, choice)
    if not choices or not all(choice["finish_reason"] for choice in choices.values()):
        raise _NotWhole
    body = {**head, "object": _KINDS[kind], "choices": [choices[index] for index in sorted(choices)]}
    return msgspec.json.encode(body if usage is None else {**body, "usage": usage})


def _chunks(events: bytes) -> Iterator[dict[str, Any]]:
    """The JSON of every event up to `[DONE]`, which must be there."""
    data: list[bytes] = []
    for line in [*events.replace(b"\r\n", b"\n").split(b"\n"), b""]:
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line and data:
            whole, data = b"\n".join(data), []
            if whole.strip() == b"[DONE]":
                return
            yield msgspec.json.decode(whole, type=dict[str, Any])
    raise _NotWhole


def _kind(chunk: dict[str, Any], before: str) -> str:
    kind = chunk.get("object")
    if chunk.get("error") or kind not in _KINDS or (before and kind != before):
        raise _NotWhole
    return str(kind)


def _join(choices: dict[int, dict[str, Any]], choice: Any) -> None:
    if not isinstance(choice, dict) or not isinstance(choice.get("index"), int) or choice.get("logprobs"):
        raise _NotWhole
    if any(value not in (None, [], "") for name, value in choice.items() if name not in _IGNORED):
        raise _NotWhole
    made = choices.setdefault(choice["index"], {"index": choice["index"], "logprobs": None, "finish_reason": None})
    delta = choice.get("delta")
    if isinstance(delta, dict):
        _extend(made.setdefault("message", {"role": "assistant", "content": "", "refusal": None}), delta)
    if isinstance(choice.get("text"), str):
        made["text"] = made.get("text", "") + choice["text"]
    made["finish_reason"] = choice.get("finish_reason") or made["finish_reason"]


def _extend(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if name == "role" or value is None or value == []:
            continue
        if not isinstance(value, str):
            raise _NotWhole
        message[name] = (message.get(name) or "") + value
