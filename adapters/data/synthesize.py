"""More examples from a teacher: a stronger model rewrites real train examples, thin topics first.

Only train rows are shown to the teacher, so nothing of the other sides can come back as training data. Each result is
marked (`synthetic`, `teacher`, `parent`), checked by OpenAI's rules, and dropped when it is near any row of the dataset
or any earlier result. The file it is written to is a source of kind `examples`: preparing again cleans, redacts and
de-duplicates it with the rest, keeps it on its parent's side, and out of validation and test whatever that side is.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, zip_longest
from pathlib import Path
from typing import Any

import msgspec

from adapters.data.chat import BrokenRow, parse_chat
from adapters.data.dataset import examples_of, read_manifest
from adapters.data.likeness import Seen
from adapters.data.rows import Outcome, encode_lines, user_text
from adapters.data.storage import write_lines
from adapters.errors import TeacherError
from adapters.settings import TeacherSettings, secret
from adapters.types import Example, Message, Role, Split

_TRIES_PER_EXAMPLE = 3
_PATIENCE = 20
_ATTEMPTS = 3
_PROMPT = """You write training data for a customer support model. Below is a real conversation. Write one new \
conversation on the same topic that another customer could have had: other words, another situation, the same policies \
and the same tone of the answer. Invent no facts about the company, and no names, addresses or numbers of people.
Answer with one JSON object and nothing else: {"question": "...", "answer": "..."}"""

Teach = Callable[[Sequence[dict[str, str]]], str]


@dataclass(frozen=True, slots=True)
class HttpTeacher:
    """A chat route as a function from messages to the text of the answer."""

    settings: TeacherSettings

    def __call__(self, messages: Sequence[dict[str, str]]) -> str:
        """Ask once; raises TeacherError when the route refuses or cannot be reached."""
        from openai import APIError, OpenAI

        chosen = self.settings
        key = secret(chosen.key_env) or "none"
        with OpenAI(
            base_url=chosen.base_url, api_key=key, timeout=chosen.timeout_seconds, max_retries=_ATTEMPTS - 1
        ) as client:
            asked: Any = list(messages)
            try:
                answer = client.chat.completions.create(
                    model=chosen.model, messages=asked, temperature=chosen.temperature
                )
            except APIError as exc:
                raise TeacherError(
                    f"teacher {chosen.model} at {chosen.base_url}: {type(exc).__name__}; check the route's name and "
                    f"that {chosen.key_env} is its key"
                ) from exc
        return answer.choices[0].message.content or "" if answer.choices else ""


def synthesize(folder: Path, count: int, teacher: Teach, teacher_name: str, threshold: float = 0.8) -> Outcome:
    """Ask for examples until there are `count`, or the tries are used up; what was refused is counted by reason."""
    read_manifest(folder)
    seen = Seen(threshold)
    for side in Split:
        for example in examples_of(folder, side):
            seen.add(f"{side}:{example.id}", user_text(example.messages))
    outcome = Outcome([])
    seeds = cycle(_seeds(folder)) if count else iter(())
    for tried, seed in enumerate(islice(seeds, count * _TRIES_PER_EXAMPLE), start=1):
        if len(outcome.kept) == count:
            break
        _try(seed, teacher, teacher_name, seen, outcome)
        if tried >= _PATIENCE and not outcome.kept:
            raise TeacherError(
                f"teacher {teacher_name}: none of {tried} answers could be used ({_words(outcome.counts)}); try a "
                "stronger model"
            )
    return outcome


def write_synthetic(path: Path, examples: Sequence[Example]) -> None:
    """Write results as a source of kind `examples`."""
    write_lines(path, encode_lines(examples))


def _try(seed: Example, teacher: Teach, teacher_name: str, seen: Seen, outcome: Outcome) -> None:
    outcome.counts["asked"] += 1
    try:
        example = _example(seed, teacher(_request(seed)), teacher_name)
    except BrokenRow as exc:
        outcome.counts[f"synthetic:{exc.rule}"] += 1
        return
    text = user_text(example.messages)
    near = seen.like(text)
    if near is not None:
        outcome.counts[f"synthetic:near_{near.partition(':')[0]}"] += 1
        return
    seen.add(f"synthetic:{example.id}", text)
    outcome.kept.append(example)


def _seeds(folder: Path) -> Iterator[Example]:
    """Give real train examples, one of each topic in turn, the thinnest topic first."""
    topics: dict[str, list[Example]] = {}
    for example in examples_of(folder, Split.TRAIN):
        if not example.synthetic and not example.tools:
            topics.setdefault(example.topic, []).append(example)
    if not topics:
        raise TeacherError(f"{folder}: train has no real example without tools to start from")
    ordered = sorted(topics.values(), key=lambda examples: (len(examples), examples[0].topic))
    return (example for turn in zip_longest(*ordered) for example in turn if example is not None)


def _request(seed: Example) -> list[dict[str, str]]:
    spoken = [f"{message.role}: {message.content}" for message in seed.messages if message.content]
    return [{"role": "system", "content": _PROMPT}, {"role": "user", "content": "\n\n".join(spoken)}]


def _example(seed: Example, answer: str, teacher_name: str) -> Example:
    pair = _pair(answer)
    messages, _ = parse_chat(
        [{"role": "user", "content": pair["question"]}, {"role": "assistant", "content": pair["answer"]}]
    )
    system = [message for message in seed.messages[:1] if message.role in {Role.SYSTEM, Role.DEVELOPER}]
    messages = (*system, *messages)
    return Example(
        id=f"synthetic:{_content_id(messages)}",
        messages=messages,
        origin=f"teacher {teacher_name}",
        topic=seed.topic,
        synthetic=True,
        teacher=teacher_name,
        parent=seed.id,
    )


def _pair(answer: str) -> dict[str, Any]:
    """Give the JSON object in an answer, whatever stands around it."""
    start, end = answer.find("{"), answer.rfind("}")
    try:
        pair = msgspec.json.decode(answer[start : end + 1])
    except msgspec.DecodeError:
        raise BrokenRow("not_json", "answer", "the teacher did not answer with a JSON object") from None
    if not isinstance(pair, dict) or not {"question", "answer"} <= pair.keys():
        raise BrokenRow("keys", "answer", "the teacher's object needs `question` and `answer`")
    return pair


def _content_id(messages: Sequence[Message]) -> str:
    return hashlib.sha256(msgspec.json.encode(messages)).hexdigest()[:16]


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
