from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.data.dataset import examples_of
from adapters.data.embeddings import HttpEmbedder, unit
from adapters.data.rows import read_examples, user_text
from adapters.data.synthesize import HttpTeacher, synthesize, write_synthetic
from adapters.errors import EmbeddingError, TeacherError
from adapters.settings import (
    Columns,
    DataSettings,
    Deduplication,
    Embeddings,
    Quality,
    SourceSettings,
    TeacherSettings,
)
from adapters.types import Example, Message, Role, Split
from tests.adapters.data.conftest import Prepared, run_recipe
from tests.adapters.data.fake_openai import FakeOpenAI, serving
from tests.adapters.data.proof import leaks


def _inventing(body: dict[str, Any]) -> str:
    """A teacher that writes a new pair for whatever it is shown, with a telephone number it should not invent."""
    seed = body["messages"][1]["content"]
    unlike = " ".join(word[::-1] for word in seed.split()[3:20])
    pair = {"question": f"Strange thing: {unlike}, call +1 415 555 2671?", "answer": f"Do this first: {unlike[:60]}."}
    return f"Here you are:\n```json\n{json.dumps(pair)}\n```"


def _teacher(fake: FakeOpenAI) -> HttpTeacher:
    return HttpTeacher(TeacherSettings(base_url=fake.url, model="teacher", key_env="TEACHER_KEY"))


def test_synthetic_examples_are_marked_and_never_judge(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a teacher over HTTP to a new version: marked, redacted, in train only, with the side of their parent."""
    monkeypatch.setenv("TEACHER_KEY", "secret")
    with serving(FakeOpenAI(answer=_inventing)) as fake:
        outcome = synthesize(prepared.folder, 12, _teacher(fake), "teacher")
    assert len(outcome.kept) == 12
    assert set(fake.keys) == {"Bearer secret"}
    train = {example.id: example for example in examples_of(prepared.folder, Split.TRAIN)}
    assert all(example.synthetic and example.teacher == "teacher" for example in outcome.kept)
    assert all(example.topic == train[example.parent].topic for example in outcome.kept)
    write_synthetic(tmp_path / "synthetic.jsonl", outcome.kept)
    made = SourceSettings(kind="examples", name="made", path=tmp_path / "synthetic.jsonl")
    settings = prepared.settings.model_copy(update={"sources": (*prepared.settings.sources, made)})
    manifest = run_recipe(settings, tmp_path / "work")
    assert manifest.synthetic_rows == 12
    folder = tmp_path / "work" / "datasets" / manifest.version
    sides = {side: sum(example.synthetic for example in examples_of(folder, side)) for side in Split}
    assert sides == {Split.TRAIN: 12, Split.VALIDATION: 0, Split.TEST: 0}
    assert leaks(folder) == {"customers": 0, "clusters": 0}
    texts = [user_text(example.messages) for example in examples_of(folder, Split.TRAIN) if example.synthetic]
    assert all("[PHONE-" in text and "2671" not in text for text in texts)


def test_only_train_is_shown_and_copies_are_refused(prepared: Prepared) -> None:
    """A teacher that repeats a test question is refused by name of the side; no test text ever reached it."""
    test = next(examples_of(prepared.folder, Split.TEST))
    stolen = json.dumps({"question": user_text(test.messages) + " please", "answer": "Here is the answer."})
    shown: list[str] = []

    def teach(messages: Any) -> str:
        shown.append(messages[1]["content"])
        return stolen if len(shown) % 2 else _inventing({"messages": messages})

    outcome = synthesize(prepared.folder, 3, teach, "t")
    assert outcome.counts["synthetic:near_test"] >= 3
    assert len(outcome.kept) == 3
    judges = (Split.TEST, Split.VALIDATION)
    hidden = {user_text(one.messages) for side in judges for one in examples_of(prepared.folder, side)}
    assert not any(text in words for words in shown for text in hidden)


def test_a_synthetic_row_of_a_test_family_is_dropped_and_counted(prepared: Prepared, tmp_path: Path) -> None:
    """Whoever wrote it by hand: a row whose parent is in test is in no file, and in the counts."""
    parent = next(examples_of(prepared.folder, Split.TEST))
    messages = (Message(Role.USER, "A very different question on bananas"), Message(Role.ASSISTANT, "They are yellow."))
    write_synthetic(tmp_path / "s.jsonl", [Example(id="m:1", messages=messages, synthetic=True, parent=parent.id)])
    made = SourceSettings(kind="examples", name="made", path=tmp_path / "s.jsonl")
    settings = prepared.settings.model_copy(update={"sources": (*prepared.settings.sources, made)})
    manifest = run_recipe(settings, tmp_path / "work")
    assert manifest.drops["split:synthetic_not_in_train"] == 1
    assert manifest.version == prepared.manifest.version


def test_a_dataset_without_real_rows_teaches_nothing(tmp_path: Path) -> None:
    """A teacher needs something real to start from."""
    rows = [
        Example(
            id=f"m:{n}",
            messages=(Message(Role.USER, f"{chr(97 + n) * 12} is asked"), Message(Role.ASSISTANT, "It is answered.")),
            synthetic=True,
        )
        for n in range(20)
    ]
    write_synthetic(tmp_path / "s.jsonl", rows)
    made = SourceSettings(kind="examples", path=tmp_path / "s.jsonl")
    settings = DataSettings(name="x", sources=(made,), quality=Quality(minimum=1))
    manifest = run_recipe(settings, tmp_path / "work")
    folder = tmp_path / "work" / "datasets" / manifest.version
    warnings = json.loads((folder / "report.json").read_text())["warnings"]
    assert any("more than half of the rows are synthetic" in warning for warning in warnings)
    assert any("test side is empty" in warning for warning in warnings)
    with pytest.raises(TeacherError, match="no real example"):
        synthesize(folder, 1, lambda _: "", "t")


def test_thin_topics_come_first(prepared: Prepared) -> None:
    """One example of each topic in turn."""
    outcome = synthesize(prepared.folder, 8, lambda messages: _inventing({"messages": messages}), "t")
    assert set(Counter(example.topic for example in outcome.kept).values()) == {1}


@pytest.mark.parametrize("answer", ["I cannot do that.", "{}", '{"question": 1, "answer": 2}', '{"question": "only"}'])
def test_a_useless_teacher_is_said_in_words(prepared: Prepared, answer: str) -> None:
    """Answers that are no examples are counted, and the work ends after twenty of them."""
    with pytest.raises(TeacherError, match="none of 20 answers could be used"):
        synthesize(prepared.folder, 50, lambda _: answer, "t")


def test_a_refusing_teacher_is_named(prepared: Prepared) -> None:
    """A wrong key ends the work with the name of its variable."""
    with serving(FakeOpenAI(status=401)) as fake, pytest.raises(TeacherError, match="TEACHER_KEY is its key"):
        synthesize(prepared.folder, 1, _teacher(fake), "teacher")


def test_embeddings_come_in_order_and_in_batches() -> None:
    """Vectors of length one in the order of the texts, whatever order the answer had; an empty text is a space."""
    with serving(FakeOpenAI()) as fake:
        vectors = HttpEmbedder(Embeddings(base_url=fake.url, batch=2))(["a", "", "ccc"])
    assert [body["input"] for body in fake.asked] == [["a", " "], ["ccc"]]
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert vectors[2][1] > vectors[0][1]
    assert vectors.dtype == np.float32


def test_bad_embeddings_are_refused() -> None:
    """A refusal, and a vector of zeros, which would be near everything."""
    with serving(FakeOpenAI(status=404)) as fake, pytest.raises(EmbeddingError, match="model `minilm`"):
        HttpEmbedder(Embeddings(base_url=fake.url))(["a"])
    with pytest.raises(EmbeddingError, match="gave 1 vectors for 2 texts"):
        unit([[1.0]], 2)
    assert unit([], 0).shape == (0, 1)
    with serving(FakeOpenAI(vector=lambda _: [0.0, 0.0])) as fake, pytest.raises(EmbeddingError, match="zeros"):
        HttpEmbedder(Embeddings(base_url=fake.url))(["a"])


def test_semantic_duplicates_go_through_the_whole_pipeline(tmp_path: Path) -> None:
    """A recipe with embeddings drops a second wording of a question, and says so in the manifest."""
    chats = [
        {"q": f"{word} I need help with number {n}", "a": "Please open the settings page."}
        for n, word in enumerate(("alpha beta gamma", "delta epsilon zeta", "eta theta iota") * 5)
    ]
    chats += [
        {"q": "How do I reset my password", "a": "Open it right now."},
        {"q": "Forgot my login code today", "a": "Open it later."},
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    known = {"How do I reset my password": [1.0, 0.0], "Forgot my login code today": [1.0, 0.0]}
    with serving(FakeOpenAI(vector=lambda text: known.get(text, [0.0, 1.0]))) as fake:
        source = SourceSettings(kind="jsonl", path=path, shape="ticket", columns=Columns(question="q", answer="a"))
        rules = Deduplication(embeddings=Embeddings(base_url=fake.url))
        settings = DataSettings(name="x", sources=(source,), deduplication=rules, quality=Quality(minimum=1))
        manifest = run_recipe(settings, tmp_path / "work")
    assert manifest.drops["duplicate:semantic"] == 1
    assert manifest.rows + sum(manifest.drops.values()) == 17
    (unique,) = (tmp_path / "work" / "stages").glob("unique-*/part-000000.jsonl")
    assert len(list(read_examples(unique))) == manifest.rows
