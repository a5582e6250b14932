"""Active learning: what a person should label next, picked from traffic, and the labels brought back.

Three reasons count. Uncertainty: one minus the geometric mean of the answer's token probabilities, or a bad rating.
Disagreement: how different the variants' answers to the same request are. Diversity: how unlike everything picked
before, and the dataset, the request is; it multiplies the sum of the other two (maximal marginal relevance), so the
queue is not the same question asked fifty times. A line without consent is never looked at. Texts are cleaned and
redacted before anybody sees them.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapters.data.chat import BrokenRow, parse_chat
from adapters.data.files import read_jsonl
from adapters.data.likeness import signature_matrix, similarities, text_similarity
from adapters.data.rows import Drop, Outcome, Record, encode_lines, user_text
from adapters.data.stage import Step
from adapters.data.storage import write_lines
from adapters.data.traffic import BEST_RATING, chat_fields
from adapters.types import Example, Message, Role

_SHORTLIST = 20  # candidates per place in the queue that diversity chooses among


class QueueItem(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the labelling queue; a person writes `label`: what the answer should be (or `skip: true`)."""

    id: str
    messages: tuple[Message, ...]
    answer: str
    score: float
    uncertainty: float
    disagreement: float
    diversity: float
    topic: str = ""
    customer: str = ""
    label: str | None = None
    labeller: str | None = None
    skip: bool = False


@dataclass(frozen=True, slots=True)
class _Candidate:
    score: float
    example: Example
    uncertainty: float
    disagreement: float

    def __lt__(self, other: _Candidate) -> bool:
        return (self.score, self.example.id) < (other.score, other.example.id)


def select(
    traffic: Path, count: int, prepare: Step, known: Iterable[str] = ()
) -> tuple[list[QueueItem], dict[str, int]]:
    """Pick the requests whose labels teach most; `prepare` cleans and redacts, `known` are texts trained on already."""
    counts: dict[str, int] = {}
    shortlist = heapq.nlargest(count * _SHORTLIST, _candidates(read_jsonl(traffic), counts))
    readable = [redacted for candidate in shortlist for redacted in _redacted(candidate, prepare)]
    return list(_diverse(readable, count, signature_matrix(known))), counts


def write_queue(path: Path, items: Iterable[QueueItem]) -> None:
    """Write a queue for people to fill in."""
    write_lines(path, encode_lines(items))


def read_labels(path: Path) -> Outcome:
    """Bring a filled-in queue back as examples; open, skipped and broken lines are counted."""
    outcome = Outcome([])
    for record in read_jsonl(path):
        try:
            item = _item(record)
            if item.skip or not item.label:
                outcome.counts["skipped" if item.skip else "open"] += 1
                continue
            outcome.kept.append(_labelled(item, record.origin))
        except BrokenRow as exc:
            outcome.drops.append(Drop(record.origin, f"broken:{exc.rule}", exc.field, exc.detail))
    return outcome


def uncertainty(line: Mapping[str, Any]) -> float:
    """Give one minus the mean token probability (geometric), or what a bad rating says; 0 when nothing is known."""
    logprobs = _logprobs(line)
    if logprobs:
        return 1 - math.exp(sum(logprobs) / len(logprobs))
    rating = (line.get("feedback") or {}).get("rating")
    return 1 - min(float(rating), BEST_RATING) / BEST_RATING if isinstance(rating, int | float) else 0.0


def disagreement(answers: Sequence[str]) -> float:
    """Give one minus the mean similarity of every two answers; one answer agrees with itself."""
    pairs = list(combinations(answers, 2))
    return 1 - sum(text_similarity(left, right) for left, right in pairs) / len(pairs) if pairs else 0.0


def _candidates(records: Iterator[Record], counts: dict[str, int]) -> Iterator[_Candidate]:
    for record in records:
        try:
            yield _candidate(record)
        except BrokenRow as exc:
            counts[exc.rule] = counts.get(exc.rule, 0) + 1


def _candidate(record: Record) -> _Candidate:
    if record.problem is not None:
        raise BrokenRow(record.problem.reason, record.problem.field, record.problem.detail)
    fields = chat_fields(record.fields)
    messages, tools = parse_chat(fields["messages"], fields["tools"])
    alternatives = record.fields.get("alternatives") or []
    others = [str(other.get("content") or "") for other in alternatives if isinstance(other, Mapping)]
    doubt, dispute = uncertainty(record.fields), disagreement([messages[-1].content or "", *others])
    name = f"traffic:{fields['id'] or record.origin}"
    example = Example(id=name, messages=messages, tools=tools, origin=record.origin, topic=str(fields["topic"] or ""))
    return _Candidate(doubt + dispute, example, doubt, dispute)


def _diverse(candidates: Sequence[_Candidate], count: int, known: NDArray[np.uint32]) -> Iterator[QueueItem]:
    """Take the best product of score and newness, again and again; newness only falls, so it is kept up to date."""
    questions = signature_matrix(user_text(candidate.example.messages) for candidate in candidates)
    scores = np.array([candidate.score for candidate in candidates])
    newness = np.array([1 - similarities(known, question).max(initial=0.0) for question in questions])
    left = np.ones(len(candidates), dtype=np.bool_)
    for _ in range(min(count, len(candidates))):
        best = int(np.where(left, scores * newness, -1.0).argmax())
        left[best] = False
        yield _queued(candidates[best], float(newness[best]))
        newness = np.minimum(newness, 1 - similarities(questions, questions[best]))


def _redacted(candidate: _Candidate, prepare: Step) -> Iterator[_Candidate]:
    for example in prepare([candidate.example]).kept:
        yield replace(candidate, example=example)


def _queued(candidate: _Candidate, new: float) -> QueueItem:
    example = candidate.example
    return QueueItem(
        id=example.id,
        messages=example.messages[:-1],
        answer=example.messages[-1].content or "",
        score=round(candidate.score * new, 4),
        uncertainty=round(candidate.uncertainty, 4),
        disagreement=round(candidate.disagreement, 4),
        diversity=round(new, 4),
        topic=example.topic,
    )


def _logprobs(line: Mapping[str, Any]) -> list[float]:
    try:
        tokens = line["response"]["choices"][0]["logprobs"]["content"] or []
        return [float(token["logprob"]) for token in tokens]
    except (KeyError, IndexError, TypeError, ValueError):  # asked for without logprobs
        return []


def _item(record: Record) -> QueueItem:
    if record.problem is not None:
        raise BrokenRow(record.problem.reason.removeprefix("broken:"), record.problem.field, record.problem.detail)
    try:
        return msgspec.convert(record.fields, QueueItem)
    except msgspec.ValidationError as exc:
        raise BrokenRow("queue_item", "line", str(exc)) from exc


def _labelled(item: QueueItem, origin: str) -> Example:
    label = Message(Role.ASSISTANT, item.label)
    messages, _ = parse_chat([msgspec.to_builtins(message) for message in (*item.messages, label)])
    return Example(id=f"label:{item.id}", messages=messages, origin=origin, topic=item.topic, satisfaction=BEST_RATING)
