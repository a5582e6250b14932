"""The rules on content: lengths in characters and tokens, checked on the texts as they will be trained on.

The shape of a conversation was checked when it was read (`chat.py`). A whole file, as a user uploads it, is checked by
`check_file`: every broken line by its number, field and rule, and what only a whole file can break (too few rows, the
same row twice).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from adapters.data.chat import BrokenRow, check_line_keys, parse_chat
from adapters.data.files import read_jsonl
from adapters.data.rows import Drop, Outcome, Record
from adapters.data.tokens import token_counter
from adapters.errors import BadFileError
from adapters.settings import Validation
from adapters.types import ChatLine, Example, Message, Role

SHOWN_PROBLEMS = 10
_MEASURED = frozenset({Role.USER, Role.ASSISTANT})


@dataclass(frozen=True, slots=True)
class Validate:
    """The step: drop what is too short or too long, and write down the tokens of what stays."""

    rules: Validation

    def __call__(self, batch: Sequence[Example]) -> Outcome:
        """Validate a batch."""
        outcome, count = Outcome([]), token_counter(self.rules.tokenizer)
        for example in batch:
            tokens = count(example.messages)
            try:
                check_lengths(example.messages, tokens, self.rules)
            except BrokenRow as exc:
                outcome.drops.append(Drop(example.origin, f"invalid:{exc.rule}", exc.field, exc.detail, example.id))
            else:
                outcome.kept.append(msgspec.structs.replace(example, tokens=tokens))
        return outcome


@dataclass(slots=True)
class FileVerdict:
    """What a whole file is worth: rows, tokens, its problems counted by rule, the first ten in full."""

    path: Path
    rows: int = 0
    tokens: int = 0
    broken: int = 0
    rules: dict[str, int] = field(default_factory=dict)
    first: list[Drop] = field(default_factory=list)

    def add(self, problem: Drop) -> None:
        """Count a problem and keep it if it is one of the first."""
        self.broken += 1
        self.rules[problem.reason] = self.rules.get(problem.reason, 0) + 1
        if len(self.first) < SHOWN_PROBLEMS:
            self.first.append(problem)

    def raise_if_broken(self) -> None:
        """Refuse the file, with counts and the first ten problems."""
        if not self.broken:
            return
        counts = ", ".join(f"{rule} {count}" for rule, count in sorted(self.rules.items()))
        listed = "\n".join(f"  {problem}" for problem in self.first)
        problems = "1 problem" if self.broken == 1 else f"{self.broken} problems"
        raise BadFileError(
            f"{self.path.name}: {problems} in {self.rows} rows ({counts}); correct them and upload the file again. "
            f"The first:\n{listed}"
        )


def check_file(path: Path, rules: Validation, minimum: int = 10) -> FileVerdict:
    """Check a JSONL file of OpenAI's chat form before it is trained on; memory holds a hash per row."""
    verdict, count, seen = FileVerdict(path), token_counter(rules.tokenizer), dict[bytes, str]()
    for record in read_jsonl(path):
        verdict.rows += 1
        try:
            messages = _parse_line(record)
            tokens = count(messages)
            check_lengths(messages, tokens, rules)
            _check_repeated(record, seen)
        except BrokenRow as exc:
            verdict.add(Drop(record.origin, exc.rule, exc.field, exc.detail))
        else:
            verdict.tokens += tokens
    if verdict.rows < minimum:
        verdict.add(Drop(path.name, "too_few_rows", "", f"has {verdict.rows} rows; at least {minimum} are needed"))
    return verdict


def chat_lines(path: Path) -> Iterator[ChatLine]:
    """Stream a file that was checked."""
    decoder = msgspec.json.Decoder(ChatLine)
    with path.open("rb") as lines:
        for line in lines:
            if line.strip():
                yield decoder.decode(line)


def check_lengths(messages: Sequence[Message], tokens: int, rules: Validation) -> None:
    """Check every user and assistant text and the whole; raises BrokenRow."""
    for index, message in enumerate(messages):
        if message.role not in _MEASURED or message.content is None:
            continue
        length, place = len(message.content.strip()), f"messages[{index}].content"
        if length < rules.characters_min and not message.tool_calls:
            raise BrokenRow("too_short", place, f"has {length} characters; at least {rules.characters_min} are needed")
        if length > rules.characters_max:
            raise BrokenRow("too_long", place, f"has {length} characters; at most {rules.characters_max} are allowed")
    if tokens > rules.tokens_max:
        raise BrokenRow("too_many_tokens", "messages", f"has {tokens} tokens; at most {rules.tokens_max} are allowed")


def _parse_line(record: Record) -> tuple[Message, ...]:
    if record.problem is not None:
        problem = record.problem
        raise BrokenRow(problem.reason.removeprefix("broken:"), problem.field, problem.detail)
    check_line_keys(record.fields)
    return parse_chat(record.fields.get("messages"), record.fields.get("tools"))[0]


def _check_repeated(record: Record, seen: dict[bytes, str]) -> None:
    digest = hashlib.blake2b(msgspec.json.encode(record.fields, order="sorted"), digest_size=16).digest()
    first = seen.setdefault(digest, record.origin)
    if first != record.origin:
        raise BrokenRow("duplicate", "messages", f"is the same as {first}; remove one of them")
