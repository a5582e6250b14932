"""What the data stages hand each other inside a process: raw records, drops, batches, and how they lie on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from adapters.types import Example, Message


class Drop(msgspec.Struct, frozen=True, omit_defaults=True):
    """One row that was left out: where it stood, the rule, the field, and words that never repeat a text."""

    origin: str
    reason: str
    field: str = ""
    detail: str = ""
    id: str = ""

    def __str__(self) -> str:
        place = f"{self.origin}: {self.field}" if self.field else self.origin
        return f"{place}: {self.reason}: {self.detail}" if self.detail else f"{place}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Record:
    """A raw row of a source. `cursor` is where reading goes on after it; `problem` says why it could not be read."""

    origin: str
    cursor: int | str
    fields: Mapping[str, Any]
    problem: Drop | None = None


@dataclass(slots=True)
class Outcome:
    """What a step made of a batch: the rows that go on, the ones that do not, and what it counted on the way."""

    kept: list[Example]
    drops: list[Drop] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


_decode = msgspec.json.Decoder(Example).decode
_decode_drop = msgspec.json.Decoder(Drop).decode
_encode = msgspec.json.Encoder().encode


def read_examples(path: Path) -> Iterator[Example]:
    """Stream the rows of a part."""
    with path.open("rb") as lines:
        for line in lines:
            yield _decode(line)


def read_drops(path: Path) -> Iterator[Drop]:
    """Stream the dropped rows of a part; a part without drops has no such file."""
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            yield _decode_drop(line)


def encode_lines(rows: Iterable[msgspec.Struct]) -> Iterator[bytes]:
    """Give each row as one line of JSON."""
    for row in rows:
        yield _encode(row) + b"\n"


def user_text(messages: Sequence[Message]) -> str:
    """Give what the user said, all turns: what a model is asked, and what a duplicate is judged by."""
    return "\n".join(message.content for message in messages if message.role == "user" and message.content)
