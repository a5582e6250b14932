"""OpenAI's rules for one training conversation, checked while it is read: what comes out is typed and well formed.

The official SDK's validator is for the old prompt/completion form and is of no use here. Each rule has a name that is
counted; each refusal names the field and never repeats its text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from adapters.types import FunctionCall, Message, Role, ToolCall

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
LINE_KEYS = frozenset({"messages", "tools", "parallel_tool_calls"})
_KEYS = {
    Role.SYSTEM: frozenset({"role", "content", "name"}),
    Role.DEVELOPER: frozenset({"role", "content", "name"}),
    Role.USER: frozenset({"role", "content", "name"}),
    Role.ASSISTANT: frozenset({"role", "content", "name", "tool_calls", "weight"}),
    Role.TOOL: frozenset({"role", "content", "name", "tool_call_id"}),
}


class BrokenRow(Exception):
    """A row breaks a rule; it is dropped and counted, or fails its file."""

    def __init__(self, rule: str, field: str, detail: str) -> None:
        super().__init__(f"{field}: {rule}: {detail}")
        self.rule, self.field, self.detail = rule, field, detail


def parse_chat(messages: Any, tools: Any = None) -> tuple[tuple[Message, ...], tuple[dict[str, Any], ...]]:
    """Read messages and tools as they come; raises BrokenRow at the first rule that is broken."""
    declared = _tools(tools)
    if messages is None:
        raise BrokenRow("messages_missing", "messages", "every row needs a list of messages")
    if not isinstance(messages, list):
        raise BrokenRow("messages_type", "messages", "must be a list of messages")
    if not messages:
        raise BrokenRow("messages_empty", "messages", "needs at least a user and an assistant message")
    parsed = tuple(_message(raw, f"messages[{index}]") for index, raw in enumerate(messages))
    _check_turns(parsed)
    _check_tool_use(parsed, {tool["function"]["name"] for tool in declared})
    return parsed, declared


def check_line_keys(line: Mapping[str, Any]) -> None:
    """Refuse members beside the conversation, as OpenAI does for an uploaded file."""
    for key in line:
        if key not in LINE_KEYS:
            raise BrokenRow("key_unknown", _quoted(key), "is not a member of a training row; remove it")
    flag = line.get("parallel_tool_calls")
    if flag is not None and not isinstance(flag, bool):
        raise BrokenRow("parallel_tool_calls_type", "parallel_tool_calls", "must be true or false")


def _message(raw: Any, place: str) -> Message:
    if not isinstance(raw, Mapping):
        raise BrokenRow("message_type", place, "must be an object with `role` and `content`")
    if "role" not in raw:
        raise BrokenRow("role_missing", f"{place}.role", "every message needs a role")
    try:
        role = Role(raw["role"])
    except ValueError:
        raise BrokenRow("role_unknown", f"{place}.role", f"must be one of {', '.join(Role)}") from None
    for key, value in raw.items():
        if key not in _KEYS[role] and value is not None:
            raise BrokenRow("key_unknown", f"{place}.{_quoted(key)}", f"a {role} message has no such member")
    calls = _tool_calls(raw.get("tool_calls"), f"{place}.tool_calls")
    return Message(
        role=role,
        content=_content(raw.get("content"), f"{place}.content", optional=bool(calls)),
        name=_optional_name(raw.get("name"), f"{place}.name"),
        tool_calls=calls,
        tool_call_id=_tool_call_id(raw.get("tool_call_id"), role, f"{place}.tool_call_id"),
        weight=_weight(raw.get("weight"), f"{place}.weight"),
    )


def _content(raw: Any, place: str, *, optional: bool) -> str | None:
    if raw is None:
        if optional:
            return None
        raise BrokenRow("content_missing", place, "every message needs text, except an assistant's with tool calls")
    if isinstance(raw, list):
        raw = "".join(_text_part(part, f"{place}[{index}]") for index, part in enumerate(raw))
    if not isinstance(raw, str):
        raise BrokenRow("content_type", place, "must be text, or a list of text parts")
    try:
        raw.encode()
    except UnicodeEncodeError:
        raise BrokenRow("not_utf8", place, "holds half of a surrogate pair; export the file as UTF-8") from None
    return raw


def _text_part(part: Any, place: str) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise BrokenRow("content_part", place, 'only parts {"type": "text", "text": ...} can be trained on')


def _weight(raw: Any, place: str) -> int | None:
    if raw is None:
        return None
    if isinstance(raw, bool) or not isinstance(raw, int | float) or raw not in {0, 1}:
        raise BrokenRow("weight_value", place, "must be 0 or 1")
    return int(raw)


def _optional_name(raw: Any, place: str) -> str | None:
    return None if raw is None else _name(raw, "name_value", place)


def _name(raw: Any, rule: str, place: str) -> str:
    if not isinstance(raw, str) or NAME.fullmatch(raw) is None:
        raise BrokenRow(rule, place, "must be 1 to 64 letters, digits, `_` or `-`")
    return raw


def _tool_call_id(raw: Any, role: Role, place: str) -> str | None:
    if role is not Role.TOOL:
        return None
    if not isinstance(raw, str) or not raw:
        raise BrokenRow("tool_call_id_missing", place, "a tool message names the call that it answers")
    return raw


def _tool_calls(raw: Any, place: str) -> tuple[ToolCall, ...]:
    if raw is None:
        return ()
    if not isinstance(raw, list) or not raw:
        raise BrokenRow("tool_calls_type", place, "must be a list with at least one call, or absent")
    calls = tuple(_tool_call(call, f"{place}[{index}]") for index, call in enumerate(raw))
    if len({call.id for call in calls}) != len(calls):
        raise BrokenRow("tool_call_id_repeated", place, "two calls have the same id")
    return calls


def _tool_call(raw: Any, place: str) -> ToolCall:
    if not isinstance(raw, Mapping) or not isinstance(raw.get("id"), str) or raw.get("type", "function") != "function":
        raise BrokenRow("tool_call_type", place, 'must be {"id": ..., "type": "function", "function": {...}}')
    function = raw.get("function")
    if not isinstance(function, Mapping):
        raise BrokenRow("tool_call_type", f"{place}.function", "must be an object with `name` and `arguments`")
    arguments = function.get("arguments")
    try:
        valid = isinstance(arguments, str) and isinstance(msgspec.json.decode(arguments), dict)
    except (msgspec.DecodeError, UnicodeEncodeError):
        valid = False
    except RecursionError:
        raise BrokenRow("tool_arguments", f"{place}.function.arguments", "is nested too deep") from None
    if not valid:
        raise BrokenRow("tool_arguments", f"{place}.function.arguments", "must be the text of a JSON object")
    name = _name(function.get("name"), "tool_name", f"{place}.function.name")
    return ToolCall(raw["id"], FunctionCall(name, str(arguments)))


def _tools(raw: Any) -> tuple[dict[str, Any], ...]:
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise BrokenRow("tools_type", "tools", "must be a list of tools")
    for index, tool in enumerate(raw):
        place = f"tools[{index}]"
        function = tool.get("function") if isinstance(tool, Mapping) and tool.get("type") == "function" else None
        if not isinstance(function, Mapping):
            raise BrokenRow("tool_type", place, 'must be {"type": "function", "function": {...}}')
        _name(function.get("name"), "tool_name", f"{place}.function.name")
        if not isinstance(function.get("parameters", {}), Mapping):
            raise BrokenRow("tool_parameters", f"{place}.function.parameters", "must be a JSON schema")
    names = [tool["function"]["name"] for tool in raw]
    if len(set(names)) != len(names):
        raise BrokenRow("tool_repeated", "tools", "two tools have the same name")
    return tuple(raw)


def _check_turns(messages: Sequence[Message]) -> None:
    answers = [message for message in messages if message.role is Role.ASSISTANT]
    if not answers:
        raise BrokenRow("no_assistant", "messages", "there is nothing to learn: add an assistant message")
    if not any(message.role is Role.USER for message in messages):
        raise BrokenRow("no_user", "messages", "there is no question: add a user message")
    if messages[-1].role is not Role.ASSISTANT:
        raise BrokenRow(
            "last_not_assistant", f"messages[{len(messages) - 1}]", "the last message must be the assistant's"
        )
    if all(message.weight == 0 for message in answers):
        raise BrokenRow("weights_all_zero", "messages", "every assistant message has weight 0: nothing would be learnt")


def _check_tool_use(messages: Sequence[Message], declared: set[str]) -> None:
    """Every call uses a declared tool and is answered once, before anybody else speaks; the last one may stay open."""
    open_calls: set[str] = set()
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        if message.role is Role.TOOL:
            if message.tool_call_id not in open_calls:
                raise BrokenRow("tool_reply_unmatched", f"{place}.tool_call_id", "answers no open tool call")
            open_calls.discard(message.tool_call_id)
            continue
        if open_calls:
            raise BrokenRow("tool_call_unanswered", place, "the tool calls before this message have no `tool` message")
        for position, call in enumerate(message.tool_calls):
            if call.function.name not in declared:
                field = f"{place}.tool_calls[{position}].function.name"
                raise BrokenRow("tool_undeclared", field, "the tool is not in this row's `tools`")
        open_calls = {call.id for call in message.tool_calls}


def _quoted(key: object) -> str:
    """Give a member's name when it is a plain word; anything else could be text."""
    return key if isinstance(key, str) and NAME.fullmatch(key) else "(odd name)"
