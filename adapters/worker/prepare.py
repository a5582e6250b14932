"""The stage `prepare`: uploaded files judged by OpenAI's rules, and written down in the one form training reads.

A whole bad file fails its job with counts and the first ten problems, by line, field and rule. Rows that repeat are a
warning: their owner may want the weight. A validation row that is trained on as well fails the job: it measures what
was learnt by heart. The dataset's identity is the hash of what was uploaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from adapters.data.chat import parse_chat
from adapters.data.files import read_jsonl
from adapters.data.validate import SHOWN_PROBLEMS, FileVerdict, check_file
from adapters.errors import BadFileError
from adapters.settings import Validation
from adapters.training.errors import InvalidTraining
from adapters.types import ChatLine

_NO_LIMIT = 10**9  # tokens: what is too long for the recipe is left out and counted by the training itself


@dataclass(frozen=True, slots=True)
class Prepared:
    """Files that can be trained on."""

    train: Path
    validation: Path | None
    sha256: str
    rows: int
    repeated: int


def prepare(training: Path, validation: Path | None, target: Path, *, minimum: int, characters_max: int) -> Prepared:
    """Check both files and write them into `target`; InvalidTraining in the words of the first problems."""
    target.mkdir(parents=True, exist_ok=True)
    seen: dict[bytes, str] = {}
    rules = Validation(characters_min=1, characters_max=characters_max, tokens_max=_NO_LIMIT)
    verdict = _judged(training, rules, minimum, "training_file")
    train = target / "train.jsonl"
    for row, origin in _normal(training, train):
        seen.setdefault(row, origin)
    measured = None
    if validation is not None:
        rows = _judged(validation, rules, 1, "validation_file").rows
        measured = target / "validation.jsonl"
        both = [(origin, seen[row]) for row, origin in _normal(validation, measured) if row in seen]
        _refuse_shared(both, rows)
    digest = hashlib.sha256()
    for path in (train, measured):
        digest.update(path.read_bytes() if path is not None else b"")
        digest.update(b"\0")
    return Prepared(train, measured, digest.hexdigest(), verdict.rows, verdict.rules.get("duplicate", 0))


def _judged(path: Path, rules: Validation, minimum: int, param: str) -> FileVerdict:
    verdict = check_file(path, rules, minimum)
    if set(verdict.rules) == {"duplicate"}:
        return verdict
    try:
        verdict.raise_if_broken()
    except BadFileError as exc:
        error = InvalidTraining(str(exc), param=param)
        error.code = "too_few_examples" if set(verdict.rules) == {"too_few_rows"} else f"invalid_{param}"
        raise error from exc
    return verdict


def _refuse_shared(both: list[tuple[str, str]], rows: int) -> None:
    """Refuse validation rows that are training rows, with the first ten by line."""
    if not both:
        return
    listed = "\n".join(
        f"  {measured}: is the same as the training file's {trained}" for measured, trained in both[:SHOWN_PROBLEMS]
    )
    error = InvalidTraining(
        f"validation_file: {len(both)} of its {rows} rows can also be found in the training file; what is trained on"
        f" measures what was learnt by heart, so take it out of one of the two. The first:\n{listed}",
        param="validation_file",
    )
    error.code = "invalid_validation_file"
    raise error


def _normal(source: Path, target: Path) -> Iterator[tuple[bytes, str]]:
    """Write lines with text content only, absent members left out; gives a hash of each, and where it came from."""
    with target.open("wb") as out:
        for record in read_jsonl(source):
            messages, tools = parse_chat(record.fields.get("messages"), record.fields.get("tools"))
            line = ChatLine(messages, tools, record.fields.get("parallel_tool_calls"))
            out.write(msgspec.json.encode(line) + b"\n")
            yield hashlib.blake2b(msgspec.json.encode(line, order="sorted"), digest_size=16).digest(), record.origin
