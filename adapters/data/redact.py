"""Personal data out, stand-ins in: `[EMAIL-kdmwrt]`. The same value gets the same stand-in in the whole data set.

A stand-in is a keyed hash of the normalized value: without the key nobody can try out values, and no table of values is
kept anywhere. It is made of consonants only, so that no recognizer ever takes one for personal data: redacting twice
changes nothing. Findings that overlap become one, named by the surest (a checksum before a
pattern).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import msgspec

from adapters.data.recognizers import Found, build_finder
from adapters.data.rows import Outcome
from adapters.settings import Redaction
from adapters.types import Example, FunctionCall, Message, Role, ToolCall

_LETTERS = "bcdfghjkmnpqrstvwxz"  # consonants: never a word, never a number, never an IBAN
_LENGTH = 6
_STAND_IN = re.compile(rf"\[[A-Z]+-[{_LETTERS}]{{{_LENGTH}}}\]")

Finder = Callable[[str], Sequence[Found]]


@dataclass(frozen=True, slots=True)
class Redact:
    """The step: redact every text of a conversation, tool arguments and names included."""

    rules: Redaction
    key: bytes

    def __call__(self, batch: Sequence[Example]) -> Outcome:
        """Redact a batch; nothing is dropped."""
        outcome = Outcome([])
        redactor = _redactor(self.rules, self.key)
        for example in batch:
            messages = tuple(redactor.message(message, outcome.counts) for message in example.messages)
            outcome.kept.append(msgspec.structs.replace(example, messages=messages))
        return outcome


@dataclass(frozen=True, slots=True)
class Redactor:
    """Finds and replaces; `key` makes the stand-ins."""

    find: Finder
    key: bytes

    def message(self, message: Message, counts: Counter[str]) -> Message:
        """Redact a message; a person's `name` becomes a stand-in, a tool's stays."""
        content = message.content and self.text(message.content, counts)
        name = message.name
        if name is not None and message.role is not Role.TOOL:
            name = self._stand_in("PERSON", name).strip("[]")
        calls = tuple(self._call(call, counts) for call in message.tool_calls)
        return msgspec.structs.replace(message, content=content, name=name, tool_calls=calls)

    def text(self, text: str, counts: Counter[str]) -> str:
        """Redact one text and count what was found, by kind.

        A finding can hide its neighbour (a telephone number right before a card), so it is looked again until there is
        nothing more to find.
        """
        while found := apart(one for one in self.find(text) if not _touches_stand_in(text, one)):
            text = self._replace(text, found, counts)
        return text

    def _replace(self, text: str, found: Sequence[Found], counts: Counter[str]) -> str:
        pieces, end = [], 0
        for one in found:
            pieces += [text[end : one.start], self._stand_in(one.kind, one.value)]
            end = one.end
            counts[f"redacted:{one.kind}"] += 1
        return "".join([*pieces, text[end:]])

    def _call(self, call: ToolCall, counts: Counter[str]) -> ToolCall:
        value = self._value(msgspec.json.decode(call.function.arguments), counts)
        arguments = msgspec.json.encode(value).decode()
        return msgspec.structs.replace(call, function=FunctionCall(call.function.name, arguments))

    def _value(self, value: Any, counts: Counter[str]) -> Any:
        """Redact inside JSON; a number that is personal (a card) becomes text."""
        if isinstance(value, dict):
            return {self.text(key, counts): self._value(item, counts) for key, item in value.items()}
        if isinstance(value, list):
            return [self._value(item, counts) for item in value]
        if isinstance(value, bool) or value is None:
            return value
        redacted = self.text(str(value), counts)
        return value if redacted == str(value) else redacted

    def _stand_in(self, kind: str, value: str) -> str:
        number = int.from_bytes(hmac.digest(self.key, f"{kind}:{value}".encode(), hashlib.sha256)[:8], "big")
        letters = []
        for _ in range(_LENGTH):
            number, rest = divmod(number, len(_LETTERS))
            letters.append(_LETTERS[rest])
        return f"[{kind}-{''.join(letters)}]"


def apart(found: Iterable[Found]) -> list[Found]:
    """Join findings that overlap into one under the surest's kind, so that no end of any of them is left standing."""
    joined: list[Found] = []
    for one in sorted(found, key=lambda f: (f.start, -f.end)):
        if joined and one.start < joined[-1].end:
            last = joined[-1]
            surest = max(last, one, key=lambda f: (f.certainty, f.end - f.start))
            joined[-1] = replace(surest, start=last.start, end=max(last.end, one.end))
        else:
            joined.append(one)
    return joined


def _touches_stand_in(text: str, found: Found) -> bool:
    """Say whether a model took a stand-in for a name; what is left to find shrinks, so looking again ends."""
    return any(one.start() < found.end and one.end() > found.start for one in _STAND_IN.finditer(text))


@lru_cache(maxsize=2)
def _redactor(rules: Redaction, key: bytes) -> Redactor:
    """Build the recognizers once per process: their libraries take seconds to load."""
    return Redactor(build_finder(rules), key)
