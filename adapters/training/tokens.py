"""Conversations as token ids and labels, with a decoded sample to prove that the labels are the right ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from adapters.training.errors import InvalidTraining, TooFewExamples
from adapters.training.template import assistant_mask
from adapters.types import ChatLine

IGNORED = -100


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One conversation; `labels` is -100 where nothing is to be learned."""

    input_ids: list[int]
    labels: list[int]


@dataclass(slots=True)
class TokenRows:
    """What came of a file, and how many conversations were left out as too long."""

    rows: list[TokenRow] = field(default_factory=list)
    too_long: int = 0

    @property
    def tokens(self) -> int:
        """All tokens, learned or not: what providers bill and what an epoch costs."""
        return sum(len(row.input_ids) for row in self.rows)

    @property
    def learned(self) -> int:
        """Tokens that the loss counts."""
        return sum(label != IGNORED for row in self.rows for label in row.labels)

    def told(self) -> str:
        """The same in words, for logs and events."""
        return f"{self.tokens} tokens in {len(self.rows)} examples, {self.too_long} too long"


def read_chat(path: Path) -> Iterator[tuple[int, ChatLine]]:
    """Line number and conversation of a JSONL file; InvalidTraining names file, line and field."""
    decoder = msgspec.json.Decoder(ChatLine)
    with path.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            if not line.strip():
                continue
            try:
                yield number, decoder.decode(line)
            except (msgspec.DecodeError, RecursionError) as exc:
                reason = exc if isinstance(exc, msgspec.DecodeError) else "is nested too deep"
                raise InvalidTraining(f"{path.name}, line {number}: {reason}", param="training_file") from exc


def count_lines(path: Path) -> int:
    """How many conversations a file holds, without reading what is in them."""
    with path.open("rb") as opened:
        return sum(1 for line in opened if line.strip())


def check_count(have: int, need: int, *, too_long: int = 0, max_tokens: int = 0) -> None:
    """Refuse to train on next to nothing."""
    if have < need:
        left_out = f" ({too_long} more are longer than data.max_tokens {max_tokens})" if too_long else ""
        raise TooFewExamples(
            f"training_file: {have} examples are too few, {need} are needed (data.min_examples){left_out}; "
            "add more examples",
            param="training_file",
        )


def tokenize(tokenizer: Any, template: str | None, lines: Iterable[tuple[int, ChatLine]], max_tokens: int) -> TokenRows:
    """Token rows in the order of the lines; a conversation that would be cut is left out and counted.

    `template` is a marked one for assistant-only loss, or None to learn from every token. Cutting a conversation would
    teach the model to stop in mid-sentence.
    """
    made = TokenRows()
    for number, line in lines:
        messages = [message for message in msgspec.to_builtins(line.messages) if message]
        if template is None:
            ids = list(
                tokenizer.apply_chat_template(
                    messages, tools=list(line.tools) or None, tokenize=True, return_dict=True
                )["input_ids"]
            )
            labels = list(ids)
        else:
            ids, mask = assistant_mask(tokenizer, template, messages, list(line.tools))
            labels = [token if bit else IGNORED for token, bit in zip(ids, mask, strict=True)]
        if all(label == IGNORED for label in labels):
            raise InvalidTraining(
                f"line {number}: nothing to learn: no assistant message with weight 1", param="training_file"
            )
        if len(ids) > max_tokens:
            made.too_long += 1
        else:
            made.rows.append(TokenRow(ids, labels))
    return made


def check_sample(tokenizer: Any, rows: TokenRows, line: ChatLine) -> str:
    """Decode what the first row learns, and prove that the assistant's words are in it and the user's are not.

    Words of the user that the assistant says again, in its text or in a tool's arguments, are the assistant's too.
    """
    row = rows.rows[0]
    learned = tokenizer.decode([label for label in row.labels if label != IGNORED])
    answers = [message for message in line.messages if message.role == "assistant" and message.weight != 0]
    said = [_plain(message.content) for message in answers if message.content]
    called = [text for message in answers for call in message.tool_calls for text in _written(call.function.arguments)]
    heard = [_plain(m.content) for m in line.messages if m.role == "user" and m.content and len(m.content) > 20]
    plain = _plain(learned)
    missing = any(text not in plain for text in said)
    leaked = any(text in plain and not any(text in own for own in (*said, *called)) for text in heard)
    if missing or leaked:
        raise InvalidTraining(
            "assistant-only loss: a decoded sample shows that the marks do not lie on the assistant's words; "
            "give a correct template in data.chat_template",
            param="data.chat_template",
        )
    return str(learned)


def _plain(text: str) -> str:
    """Without white space, which templates and tokenizers move."""
    return "".join(text.split())


def _written(arguments: str) -> tuple[str, str]:
    """A tool's arguments as they came, and as a template writes them: parsed, and with all letters as they are."""
    try:
        parsed = msgspec.json.encode(msgspec.json.decode(arguments)).decode()
    except (msgspec.DecodeError, RecursionError):
        parsed = arguments
    return _plain(arguments), _plain(parsed)
