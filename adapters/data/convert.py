"""From a raw record to a typed example: pick the mapped columns, join threads, check OpenAI's rules, filter.

What cannot be used becomes a Drop with its reason; nothing is repaired by guessing. A customer is turned into a keyed
hash here, so that no later stage ever sees who it was.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from itertools import groupby
from typing import Any

import msgspec

from adapters.data.chat import BrokenRow, parse_chat
from adapters.data.filters import filtered
from adapters.data.rows import Drop, Record, user_text
from adapters.data.traffic import TRAFFIC_COLUMNS, chat_fields
from adapters.settings import Filters, SourceSettings, Topic
from adapters.types import Example, Message, Role

_ID_BYTES = 8


@dataclass(frozen=True)
class Converter:
    """What every row of one source goes through. `as_of` is the instant that ages are counted from."""

    source: SourceSettings
    filters: Filters
    topics: Sequence[Topic]
    key: bytes
    as_of: float

    def examples(self, records: Iterator[Record]) -> Iterator[tuple[int | str, Example | Drop]]:
        """Give each conversation, or why there is none, with the cursor behind it."""
        for group in self._conversations(records):
            yield group[-1].cursor, self._example(group)

    def _conversations(self, records: Iterator[Record]) -> Iterator[list[Record]]:
        if self.source.shape != "thread" or self.source.kind in {"traffic", "examples"}:
            yield from ([record] for record in records)
            return
        column = self.source.columns.id or ""
        for _, group in groupby(records, key=lambda record: record.fields.get(column, record.cursor)):
            yield list(group)

    def _example(self, group: Sequence[Record]) -> Example | Drop:
        first = group[0]
        broken = next((record.problem for record in group if record.problem is not None), None)
        if broken is not None:
            return broken
        try:
            example = self._read(group)
        except BrokenRow as exc:
            reason = "filter:no_consent" if exc.rule == "consent" else f"broken:{exc.rule}"
            return Drop(first.origin, reason, exc.field, exc.detail)
        refusal = self._filtered(example)
        return Drop(example.origin, refusal, id=example.id) if refusal else example

    def _filtered(self, example: Example) -> str | None:
        if self.source.kind == "examples":  # chosen, made or labelled on purpose
            return None
        columns = TRAFFIC_COLUMNS if self.source.kind == "traffic" else self.source.columns
        return filtered(example, self.filters, columns, self.as_of)

    def _read(self, group: Sequence[Record]) -> Example:
        if self.source.kind == "examples":
            return _own_example(group[0])
        fields = self._fields(group)
        messages, tools = parse_chat(_json(fields.get("messages"), "messages"), _json(fields.get("tools"), "tools"))
        if self.source.system and messages[0].role not in {Role.SYSTEM, Role.DEVELOPER}:
            messages = (Message(Role.SYSTEM, self.source.system), *messages)
        key = fields.get("id")
        return Example(
            id=f"{self.source.name}:{key if key not in {None, ''} else _content_id(messages)}",
            messages=messages,
            tools=tools,
            origin=group[0].origin,
            customer=self._customer(fields.get("customer")),
            topic=self._topic(fields.get("topic"), messages),
            created_at=_instant(fields.get("created_at"), "created_at"),
            satisfaction=_number(fields.get("satisfaction"), "satisfaction", self.filters.satisfaction_scale),
            resolution_seconds=_number(fields.get("resolution_seconds"), "resolution_seconds", None),
        )

    def _fields(self, group: Sequence[Record]) -> dict[str, Any]:
        """Give the row under our names, whatever the source calls them."""
        first = group[0].fields
        if self.source.kind == "traffic":
            return chat_fields(first)
        columns = self.source.columns.model_dump(exclude={"role", "content", "question", "answer"}, exclude_none=True)
        fields = {ours: _pick(first, theirs) for ours, theirs in columns.items()}
        if self.source.shape == "ticket":
            fields["messages"] = self._ticket(first)
        elif self.source.shape == "thread":
            fields["messages"] = [self._turn(record.fields) for record in group]
        else:
            fields.setdefault("messages", first.get("messages"))
            fields.setdefault("tools", first.get("tools"))
        return fields

    def _ticket(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        columns = self.source.columns
        question, answer = _pick(row, columns.question or ""), _pick(row, columns.answer or "")
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def _turn(self, row: Mapping[str, Any]) -> dict[str, Any]:
        role = str(_pick(row, self.source.columns.role or "")).lower()
        known = {"system", "developer"} & {role}
        return {
            "role": role if known else "assistant" if role in self.source.agents else "user",
            "content": _pick(row, self.source.columns.content or ""),
        }

    def _customer(self, raw: Any) -> str:
        if raw is None or raw == "":
            return ""
        return hmac.new(self.key, f"customer:{raw}".encode(), hashlib.sha256).hexdigest()[: 2 * _ID_BYTES]

    def _topic(self, raw: Any, messages: Sequence[Message]) -> str:
        if raw is not None and str(raw).strip():
            return str(raw).strip().lower()
        text = user_text(messages)
        return next((name for name, words in self._topic_words if words.search(text)), "")

    @cached_property
    def _topic_words(self) -> list[tuple[str, re.Pattern[str]]]:
        return [
            (topic.name, re.compile(rf"\b(?:{'|'.join(map(re.escape, topic.words))})\b", re.IGNORECASE))
            for topic in self.topics
        ]


def _own_example(record: Record) -> Example:
    """Read a row that this package wrote; its conversation is checked again, for people edit such files."""
    try:
        example = msgspec.convert(record.fields, Example)
    except msgspec.ValidationError as exc:
        raise BrokenRow("example_type", "line", str(exc)) from exc
    parse_chat(record.fields.get("messages"), record.fields.get("tools"))
    return msgspec.structs.replace(example, origin=record.origin)


def _pick(row: Mapping[str, Any], path: str) -> Any:
    """Give a column, or the member of a nested object that a dotted path names."""
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _json(raw: Any, field: str) -> Any:
    """Give JSON text of a SQL or CSV column as its value; other values are taken as they are."""
    if not isinstance(raw, str):
        return raw
    if not raw:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeEncodeError) as exc:
        raise BrokenRow("not_json", field, "the column must hold JSON text") from exc


def _content_id(messages: Sequence[Message]) -> str:
    return hashlib.sha256(msgspec.json.encode(messages)).hexdigest()[: 2 * _ID_BYTES]


def _number(raw: Any, field: str, largest: float | None) -> float | None:
    if raw is None or raw == "":
        return None
    try:
        value = float(raw)
    except (TypeError, ValueError):
        raise BrokenRow("number", field, "must be a number") from None
    if not 0 <= value <= (largest if largest is not None else float("inf")):
        raise BrokenRow("number", field, f"must lie between 0 and {largest or 'infinity'}")
    return value


def _instant(raw: Any, field: str) -> float | None:
    """Give epoch seconds; a time without a zone is taken as UTC."""
    if raw is None or raw == "":
        return None
    if isinstance(raw, date) and not isinstance(raw, datetime):
        raw = datetime(raw.year, raw.month, raw.day, tzinfo=UTC)
    if isinstance(raw, datetime):
        return (raw if raw.tzinfo else raw.replace(tzinfo=UTC)).timestamp()
    try:
        return float(raw)
    except (TypeError, ValueError):
        pass
    try:
        return _instant(datetime.fromisoformat(str(raw)), field)
    except ValueError:
        raise BrokenRow("instant", field, "must be epoch seconds or ISO 8601") from None
