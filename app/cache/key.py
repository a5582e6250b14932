"""What an answer may stand for: the scope it belongs to and the turn it answers. Pure.

Two calls share a scope only when everything but the wording of the last user turn is the same: tenant, route, variant,
every target with its adapter's content hash, system prompt, history, tools, response format, sampling, and any
field we have never heard of. Left out are the fields that do not change the answer (`IGNORED`). Parts are hashed
with their lengths in front, so that none can run into the next. A promoted adapter has another hash, so the answers of
the old one can no longer be reached.

What cannot be read with certainty is not cached: the caller then simply asks upstream.

`Labels` are short digests of what an operator may want to forget answers by; they stand in the names of Redis keys, so
that such answers can be found again. A collision of two labels of one tenant costs a miss.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from app.types import Call, Choice, Operation, Principal, Target

IGNORED = frozenset({"model", "stream", "stream_options", "user", "metadata", "store"})

_TURN_FIELDS = {Operation.CHAT: "messages", Operation.COMPLETIONS: "prompt"}
_LOGPROBS = ("logprobs", "top_logprobs")
_UNSET = (b"null", b"false")
_DIGEST_VERSION = b"tunegate-cache-2"


class Bypass(StrEnum):
    """Why a call is neither looked up nor kept; fit for a metric label."""

    OPERATION = "operation"
    NO_TURN = "no_turn"
    CHOICES = "choices"
    LOGPROBS = "logprobs"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Labels:
    """What an answer was made by, as 8 hexadecimal digits each; `adapter` is the name, `version` the version's id."""

    route: str
    variant: str
    adapter: str
    version: str

    def __str__(self) -> str:
        return f"{self.route}.{self.variant}.{self.adapter}.{self.version}"


@dataclass(frozen=True, slots=True)
class Keys:
    """Where a call's answer is found: `scope` bounds the semantic search, `exact` names the one answer."""

    scope: bytes
    exact: bytes
    turn: str
    labels: Labels


@dataclass(frozen=True, slots=True)
class _Asked:
    turn: str
    rest: Any


def keys(principal: Principal, call: Call, choice: Choice) -> Keys | Bypass:
    """Scope, exact key and turn of a call, or why it has none."""
    asked = _asked(call)
    if isinstance(asked, Bypass):
        return asked
    try:
        digest = _digest(_scope_parts(principal, call, choice, asked.rest))
    except (msgspec.MsgspecError, UnicodeError, OverflowError, RecursionError):
        return Bypass.UNREADABLE
    return Keys(digest, exact_key(digest, asked.turn), asked.turn, _labels(choice))


def label(name: str) -> str:
    """A name as it stands in Redis keys: 8 hexadecimal digits."""
    return hashlib.blake2s(name.encode(), digest_size=4).hexdigest()


def exact_key(scope: bytes, turn: str) -> bytes:
    """Scope and the turn's own words; white space around them and the way accents are composed do not count."""
    return _digest((scope, normalised(turn).encode("utf-8", "surrogatepass")))


def normalised(turn: str) -> str:
    """The turn as it is compared: composed (NFC), trimmed, its case kept."""
    return unicodedata.normalize("NFC", turn).strip()


def _asked(call: Call) -> _Asked | Bypass:
    if call.operation not in _TURN_FIELDS:
        return Bypass.OPERATION
    if call.choices != 1:
        return Bypass.CHOICES
    if any(_is_set(call, field) for field in _LOGPROBS):
        return Bypass.LOGPROBS
    try:
        value = msgspec.json.decode(call.fields.get(_TURN_FIELDS[call.operation], b"null"))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return Bypass.UNREADABLE
    found = _last_turn(value) if call.operation is Operation.CHAT else _prompt(value)
    return found if found is not None and normalised(found.turn) else Bypass.NO_TURN


def _is_set(call: Call, field: str) -> bool:
    return bytes(call.fields.get(field, b"null")) not in _UNSET


def _prompt(value: Any) -> _Asked | None:
    return _Asked(value, None) if isinstance(value, str) else None


def _last_turn(messages: Any) -> _Asked | None:
    """The text of a closing user message, and the conversation with that text cut out of it.

    Of a message in several parts the last must be text: it is the turn, the parts before it are context.
    """
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict) or last.get("role") != "user":
        return None
    content = last.get("content")
    if isinstance(content, str):
        return _Asked(content, [*messages[:-1], {**last, "content": None}])
    part = content[-1] if isinstance(content, list) and content else None
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        return None
    cut = [*content[:-1], {**part, "text": None}] if isinstance(content, list) else None
    return _Asked(part["text"], [*messages[:-1], {**last, "content": cut}])


def _scope_parts(principal: Principal, call: Call, choice: Choice, rest: Any) -> Iterable[bytes]:
    yield _DIGEST_VERSION
    yield principal.tenant_id.encode()
    yield choice.route.name.encode()
    yield (choice.route.tenant_id or "").encode()
    yield choice.variant.encode()
    yield _digest(part for target in choice.targets for part in _target_parts(target))
    yield _canonical(rest)
    turn_field = _TURN_FIELDS[call.operation]
    for field in sorted(call.fields.keys() - IGNORED - {turn_field}):
        yield field.encode()
        yield _canonical(msgspec.json.decode(call.fields[field]))


def _labels(choice: Choice) -> Labels:
    adapter = choice.targets[0].adapter
    name, version = (adapter.name, adapter.id) if adapter else ("", "")
    return Labels(label(choice.route.name), label(choice.variant), label(name), label(version))


def _target_parts(target: Target) -> Iterable[bytes]:
    yield target.upstream.encode()
    yield target.model.encode()
    yield target.adapter.sha256.encode() if target.adapter else b""
    yield target.adapter.id.encode() if target.adapter else b""


def _canonical(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def _digest(parts: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()
