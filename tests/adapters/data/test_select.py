from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec

from adapters.data.clean import Clean
from adapters.data.redact import Redact
from adapters.data.select import QueueItem, disagreement, read_labels, select, uncertainty, write_queue
from adapters.data.stage import after
from adapters.settings import Cleaning, Redaction
from adapters.types import Message, Role

STEPS = after(Clean(Cleaning()), Redact(Redaction(), b"key"))


def _line(name: str, question: str, **changes: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": f"The answer to {name} is in the manual."}
    probability = changes.pop("probability", 0.9)
    logprobs = {"content": [{"logprob": math.log(probability)}] * 3}
    return {
        "id": name,
        "consent": True,
        "topic": "x",
        "request": {"messages": [{"role": "user", "content": question}]},
        "response": {"choices": [{"message": message, "logprobs": logprobs}]},
        **changes,
    }


def _traffic(folder: Path, lines: list[Any]) -> Path:
    path = folder / "traffic.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_uncertain_and_disputed_requests_come_first(tmp_path: Path) -> None:
    """Low token probability, and variants that answer otherwise, before what everybody is sure of."""
    other = [{"variant": "candidate", "content": "Nothing like the first words at all, not in the least."}]
    lines = [
        _line("sure", "How do I pay my bill?", probability=0.99),
        _line("unsure", "Why does the green light blink?", probability=0.3),
        _line("disputed", "Can I send it back after a year?", alternatives=other),
    ]
    items, counts = select(_traffic(tmp_path, lines), 2, STEPS)
    assert [item.id for item in items] == ["traffic:disputed", "traffic:unsure"]
    assert counts == {}
    assert items[1].uncertainty == 0.7
    assert items[0].disagreement > 0.5


def test_the_queue_is_diverse(tmp_path: Path) -> None:
    """Of ten wordings of one question only one comes before another question, though that is less uncertain."""
    same = [
        _line(f"same{n}", f"Why does the green light of my router blink {'again ' * (n % 2)}today", probability=0.2)
        for n in range(10)
    ]
    other = _line("other", "Where can I find my last invoice?", probability=0.6)
    items, _ = select(_traffic(tmp_path, [*same, other]), 3, STEPS)
    assert items[1].id == "traffic:other"
    assert items[0].id.startswith("traffic:same")


def test_what_was_trained_on_is_not_asked_again(tmp_path: Path) -> None:
    """A question of the dataset is the last to be picked."""
    lines = [_line("known", "Why does the green light blink?", probability=0.2), _line("new", "Where is my parcel?")]
    items, _ = select(_traffic(tmp_path, lines), 1, STEPS, known=["Why does the green light blink?"])
    assert [item.id for item in items] == ["traffic:new"]


def test_labellers_see_nothing_personal_and_only_what_was_agreed(tmp_path: Path) -> None:
    """Queue texts are cleaned and redacted; lines without consent and broken ones are counted."""
    lines = [
        _line("a", "<p>Mail me at jane@example.com, it is broken</p>"),
        _line("b", "private words", consent=False),
        "{",
        _line("c", "no answer", response={}),
    ]
    items, counts = select(_traffic(tmp_path, lines), 5, STEPS)
    assert [item.id for item in items] == ["traffic:a"]
    assert "jane" not in (items[0].messages[0].content or "")
    assert counts == {"consent": 1, "broken:not_json": 1, "response_type": 1}


def test_scores() -> None:
    """Uncertainty from token probabilities, else from the rating; disagreement of answers."""
    assert uncertainty({"feedback": {"rating": 1}}) == 0.8
    assert uncertainty({}) == 0.0
    assert math.isclose(uncertainty(_line("x", "q", probability=0.25)), 0.75)
    assert disagreement(["only one"]) == 0.0
    assert disagreement(["the very same words", "the very same words"]) == 0.0
    assert disagreement(["abcdefgh", "qrstuvwx"]) == 1.0


def _queued(name: str, messages: tuple[Message, ...], **changes: Any) -> QueueItem:
    item = QueueItem(id=name, messages=messages, answer="old", score=1, uncertainty=1, disagreement=0, diversity=1)
    return msgspec.structs.replace(item, **changes)


def test_labels_come_back_as_examples(tmp_path: Path) -> None:
    """Filled-in lines become examples, open and skipped ones are counted, broken ones are named."""
    question = (Message(Role.USER, "Why does the light blink?"),)
    items = [
        _queued("traffic:1", question, label="It is updating.", topic="t"),
        _queued("traffic:2", question),
        _queued("traffic:3", question, label="x", skip=True),
        _queued("traffic:4", (), label="It is updating."),
    ]
    path = tmp_path / "queue.jsonl"
    write_queue(path, items)
    with path.open("a") as file:
        file.write('{"id": 7}\n{\n')
    outcome = read_labels(path)
    assert [(row.id, row.messages[-1].content, row.topic) for row in outcome.kept] == [
        ("label:traffic:1", "It is updating.", "t")
    ]
    assert outcome.counts == {"open": 1, "skipped": 1}
    assert [(drop.origin, drop.reason) for drop in outcome.drops] == [
        ("queue.jsonl:4", "broken:no_user"),
        ("queue.jsonl:5", "broken:queue_item"),
        ("queue.jsonl:6", "broken:not_json"),
    ]
