"""Cleaning of texts: markup, quoted earlier mails, signatures, URLs, white space. Pure functions, each counted by name.

Mails are read from the top: what a person wrote comes first, and what their mail program added comes after it. A text
that would be empty without its quote or signature keeps them, so that nothing is lost by a wrong guess.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from adapters.data.markup import strip_markup
from adapters.data.rows import Drop, Outcome
from adapters.settings import Cleaning
from adapters.types import Example, Message, Role

_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\u00ad\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SPACES = re.compile(r"[ \t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_URL = re.compile(r"\b(?:https?://|www\.)[^\s<>\"'\[\]]*[^\s<>\"'\[\].,;:!?)]", re.IGNORECASE)
_QUOTE_STARTS = re.compile(
    r"^(?:on .{4,120} wrote:|am .{4,120} schrieb.{0,80}:|le .{4,120} a écrit\s?:|el .{4,120} escribió:"
    r"|-{2,}\s*original message\s*-{2,}.*|-{2,}\s*forwarded message\s*-{2,}.*|_{10,}|begin forwarded message:)$",
    re.IGNORECASE,
)
_HEADER = re.compile(r"^(?:from|sent|to|cc|subject|date|von|gesendet|an|betreff):\s.+$", re.IGNORECASE)
_HEADER_LINES = 3
_CLOSING = re.compile(
    r"^(?:(?:best|kind|warm|many)?\s*(?:regards|wishes)|kind regards|best|cheers|thanks|thank you|many thanks|sincerely"
    r"|yours (?:truly|sincerely|faithfully)|mit freundlichen gr(?:ü|ue)(?:ß|ss)en|viele gr(?:ü|ue)(?:ß|ss)e"
    r"|cordialement)"
    r"\s*[,!.]?$",
    re.IGNORECASE,
)
_DEVICE = re.compile(
    r"^(?:sent (?:from|via) (?:my|the) .{2,40}|get outlook for .{2,20}|von meinem .{2,20} gesendet)\.?$", re.IGNORECASE
)
_AFTER_CLOSING = 8
_SIGNATURE_LINE = 70
_SENTENCE_WORDS = 5


@dataclass(frozen=True, slots=True)
class Clean:
    """The step: clean every message; a conversation that is left without words is dropped."""

    rules: Cleaning

    def __call__(self, batch: Sequence[Example]) -> Outcome:
        """Clean a batch."""
        outcome = Outcome([])
        for example in batch:
            messages = tuple(self._message(message, outcome.counts) for message in example.messages)
            if all(message.content for message in messages if message.role is Role.USER):
                outcome.kept.append(msgspec.structs.replace(example, messages=messages))
            else:
                outcome.drops.append(Drop(example.origin, "clean:empty", "messages", id=example.id))
        return outcome

    def _message(self, message: Message, counts: Counter[str]) -> Message:
        if not message.content or message.role is Role.TOOL:
            return message
        return msgspec.structs.replace(message, content=clean(message.content, self.rules, counts))


def clean(text: str, rules: Cleaning, counts: Counter[str]) -> str:
    """Clean one text and count what was taken out."""
    text = normalize(text)
    if rules.markup:
        text = _counted("cleaned:markup", text, strip_markup(text), counts)
    lines = [line.strip() for line in normalize(text).splitlines()]
    if rules.quotes:
        lines = _kept("cleaned:quote", lines, _without_quotes(lines), counts)
    while lines and not lines[-1]:
        lines.pop()
    if rules.signatures:
        lines = _kept("cleaned:signature", lines, _without_signature(lines), counts)
    text = "\n".join(lines)
    if rules.urls != "keep":
        text, found = _URL.subn("[URL]" if rules.urls == "mark" else "", text)
        counts["cleaned:url"] += found
    lines = [_SPACES.sub(" ", line).strip() for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def normalize(text: str) -> str:
    """Give plain characters: one kind of space and line end, no invisible ones, ASCII for full-width letters."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    return _SPACES.sub(" ", _INVISIBLE.sub("", text.translate(_FULL_WIDTH)))


def _counted(name: str, before: str, after: str, counts: Counter[str]) -> str:
    counts[name] += before != after
    return after


def _kept(name: str, before: list[str], after: list[str], counts: Counter[str]) -> list[str]:
    """Take the shorter text unless nothing would be left of it."""
    if len(after) == len(before) or not any(after):
        return before
    counts[name] += 1
    return after


def _without_quotes(lines: list[str]) -> list[str]:
    """Cut where an earlier mail begins, and drop lines marked with `>`."""
    for index in range(len(lines)):
        introduced = _QUOTE_STARTS.match(lines[index]) or _QUOTE_STARTS.match(" ".join(lines[index : index + 2]))
        headers = lines[index : index + _HEADER_LINES]
        if introduced or (len(headers) == _HEADER_LINES and all(_HEADER.match(line) for line in headers)):
            lines = lines[:index]
            break
    return [line for line in lines if not line.startswith(">")]


def _without_signature(lines: list[str]) -> list[str]:
    """Cut at the delimiter of RFC 3676, at a mail program's line, or at a closing formula near the end."""
    while lines and (not lines[-1] or _DEVICE.match(lines[-1])):
        lines = lines[:-1]
    for index, line in enumerate(lines):
        if line == "--":
            return lines[:index]
    for index in range(max(1, len(lines) - _AFTER_CLOSING - 1), len(lines)):
        if _CLOSING.match(lines[index]) and all(_looks_signed(line) for line in lines[index + 1 :]):
            return lines[:index]
    return lines


def _looks_signed(line: str) -> bool:
    """Say whether a line can stand under a closing formula: short, and no sentence (a full stop after five words)."""
    sentence = line.endswith(".") and len(line.split()) >= _SENTENCE_WORDS
    return len(line) <= _SIGNATURE_LINE and not line.endswith(("?", "!", ":")) and not sentence
