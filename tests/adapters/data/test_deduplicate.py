from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from adapters.data.deduplicate import Search, Unique, decide
from adapters.data.engine import LocalEngine
from adapters.data.fingerprint import (
    Fingerprint,
    Signing,
    band_hashes,
    exact_hashes,
    grams,
    guard_hashes,
    normal,
    signatures_of,
    signing,
)
from adapters.data.near import ALL_PAIRS, arrays_of, candidates
from adapters.data.rows import Outcome
from adapters.data.semantic import pair_count, part_pair
from adapters.data.stage import Silent, Stage, open_stage
from adapters.settings import Deduplication, Embeddings
from adapters.types import Example, Message, Role

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)


def example(id_: str, question: str, answer: str = "Please restart it.", *, synthetic: bool = False) -> Example:
    """A conversation of two turns."""
    messages = (Message(Role.USER, question), Message(Role.ASSISTANT, answer))
    return Example(id=id_, messages=messages, origin=id_, synthetic=synthetic)


def deduplicated(
    folder: Path, parts: Sequence[Sequence[Example]], rules: Deduplication | None = None, embed: object = None
) -> tuple[list[Example], dict[str, str]]:
    """Run the real stages over some parts: what stays, and the reason of what goes by id."""
    chosen = rules or Deduplication()
    source = open_stage(folder, "validate")
    for index, part in enumerate(parts):
        source.seal(index, Outcome(list(part)))
    source.finish()
    how = signing(chosen.permutations, chosen.group)
    prints = open_stage(folder, "fingerprint")
    _run(Fingerprint(source, prints, how, embed), prints, len(parts))  # type: ignore[arg-type]
    decisions = decide(Search(folder, LocalEngine(), Silent(), chosen), prints, how.bands)
    unique = open_stage(folder, "unique")
    _run(Unique(source, decisions, arrays_of(prints), unique), unique, len(parts))
    reasons = {drop.id: drop.reason for seal in unique.require().parts for drop in unique.dropped(seal)}
    return list(unique.examples()), reasons


def _run(task: Fingerprint | Unique, stage: Stage, parts: int) -> None:
    for index in range(parts):
        task(index)
    stage.finish()


LONG = "My black router in the kitchen stops during video calls and I have already changed the battery twice this week"


def test_exact_and_near_copies_go_and_the_first_stays(tmp_path: Path) -> None:
    """Case and punctuation make no difference; a changed word makes a near copy; another question stays."""
    kept, reasons = deduplicated(
        tmp_path,
        [
            [example("a", LONG), example("b", "Where can I see my last invoice, and who do I ask about it?")],
            [example("c", LONG.upper() + "!"), example("d", LONG.replace("twice", "once")), example("e", LONG, "No.")],
        ],
    )
    assert [row.id for row in kept] == ["a", "b"]
    assert reasons == {"c": "duplicate:exact", "d": "duplicate:near", "e": "duplicate:near"}


def test_a_real_example_stays_before_a_synthetic_one(tmp_path: Path) -> None:
    """Whatever comes first, a person's words are kept."""
    kept, reasons = deduplicated(
        tmp_path,
        [[example("s", LONG, synthetic=True), example("t", LONG + " again", synthetic=True), example("r", LONG)]],
    )
    assert [row.id for row in kept] == ["r"]
    assert reasons == {"s": "duplicate:exact", "t": "duplicate:near"}


def test_rows_that_are_only_alike_stay_in_one_cluster(tmp_path: Path) -> None:
    """Above `group` and below `near`: both are kept under one cluster's name; a lone row has its own."""
    half = LONG.replace("video", "phone").replace("twice", "three times")
    other = "Where can I see my last invoice, and who do I ask about it?"
    kept, _ = deduplicated(tmp_path, [[example("a", LONG), example("b", half)], [example("c", other)]])
    clusters = {row.id: row.cluster for row in kept}
    assert clusters["a"] == clusters["b"]
    assert clusters["c"] not in {clusters["a"], ""}


def test_a_row_goes_only_for_one_that_stays(tmp_path: Path) -> None:
    """In a chain of small changes the ends are kept: being like a dropped row drops nobody."""
    words = LONG.split()
    chain = [example(str(n), " ".join(["other"] * n + words[n:])) for n in range(0, 16, 2)]
    kept, reasons = deduplicated(tmp_path, [chain])
    assert kept[0].id == "0"
    assert len(kept) > 1
    assert reasons
    assert len({row.cluster for row in kept}) == 1


class Meanings:
    """An embedder with a table: texts with the same meaning get the same vector."""

    def __init__(self, meanings: dict[str, int]) -> None:
        self._meanings = meanings

    def __call__(self, asked: Sequence[str]) -> NDArray[np.float32]:
        """Give unit vectors."""
        return np.eye(8, dtype=np.float32)[[self._meanings[text] for text in asked]].reshape(len(asked), 8)


def test_same_meaning_goes_unless_a_fact_differs(tmp_path: Path) -> None:
    """Two wordings of one question are one; another number or a denial is another question."""
    asked = {
        "a": "How do I reset the password of my account?",
        "b": "I forgot my login code, what now?",
        "c": "How do I reset the password of account 1234?",
        "d": "I forgot the code of account 1235, what now?",
        "e": "Why can I not pick a new pass phrase?",
        "f": "Please send the invoice to my office.",
    }
    meanings = {text: 1 if name == "f" else 0 for name, text in asked.items()}
    rules = Deduplication(embeddings=Embeddings(base_url="http://unused/v1"))
    rows = [example(name, text) for name, text in asked.items()]
    kept, reasons = deduplicated(tmp_path, [rows[:2], rows[2:]], rules, Meanings(meanings))
    assert reasons == {"b": "duplicate:semantic"}
    assert {row.cluster for row in kept if row.id == "a"} != {row.cluster for row in kept if row.id == "f"}


def test_a_part_of_nothing_but_copies_has_no_meanings_to_compare(tmp_path: Path) -> None:
    """With embeddings, a part whose rows are all gone is passed over."""
    rules = Deduplication(embeddings=Embeddings(base_url="http://unused/v1"))
    parts = [[example("a", LONG)], [example("b", LONG)], [example("c", "What is the way to pay by card?")]]
    kept, reasons = deduplicated(tmp_path, parts, rules, Meanings({LONG: 0, "What is the way to pay by card?": 1}))
    assert [row.id for row in kept] == ["a", "c"]
    assert reasons == {"b": "duplicate:exact"}


@settings(deadline=None, max_examples=10)
@given(st.lists(st.tuples(texts, texts, st.booleans()), min_size=1, max_size=8), st.data())
def test_of_equal_conversations_one_stays(rows: list[tuple[str, str, bool]], data: st.DataObject) -> None:
    """Every row is kept or dropped; of equal ones at most one is kept, and never a synthetic one before a real one."""
    rows += data.draw(st.lists(st.sampled_from(rows), max_size=6))
    examples = [example(str(n), ask, answer, synthetic=made) for n, (ask, answer, made) in enumerate(rows)]
    cut = data.draw(st.integers(0, len(examples)))
    with TemporaryDirectory() as folder:
        kept, reasons = deduplicated(Path(folder), [examples[:cut], examples[cut:]])
    assert {row.id for row in kept} | reasons.keys() == {row.id for row in examples}
    equal: dict[bytes, list[Example]] = defaultdict(list)
    for row in examples:
        equal[exact_hashes([row]).tobytes()].append(row)
    for twins in equal.values():
        staying = [row for row in twins if row.id not in reasons]
        assert len(staying) <= 1
        assert all(not row.synthetic or all(twin.synthetic for twin in twins) for row in staying)


@settings(deadline=None, max_examples=60)
@given(texts, texts)
def test_estimates_are_near_the_true_similarity(left: str, right: str) -> None:
    """The share of equal values of two signatures is the Jaccard similarity of their grams, within five deviations."""
    one, two = (set(grams(normal(text)).tolist()) for text in (left, right))
    true = len(one & two) / len(one | two)
    first, second = signatures_of([normal(left), normal(right)], 512)
    estimate = float((first == second).mean())
    assert abs(estimate - true) <= 5 * np.sqrt(max(true * (1 - true), 1 / 512) / 512)


def test_signatures_are_datasketch_own() -> None:
    """What is stored is what datasketch computes, so its index finds the same neighbours."""
    from datasketch import MinHash

    text = normal(LONG)
    plain = MinHash(num_perm=128, seed=1, hashfunc=int, scheme="affine32")
    plain.update_batch(grams(text).tolist())
    (stored,) = signatures_of([text], 128)
    assert (plain.hashvalues == stored).all()


def test_bands_find_what_datasketch_index_finds() -> None:
    """Candidates of all bands are the pairs that datasketch's in-memory LSH gives."""
    from datasketch import MinHash, MinHashLSH

    random = np.random.default_rng(1)
    words = LONG.split()
    documents = [" ".join(random.permutation(words)[: random.integers(6, 20)]) for _ in range(60)]
    documents += [document + " more" for document in documents]
    how = signing(128, 0.6)
    signatures = np.stack([*signatures_of(documents, 128)])
    bands = band_hashes(signatures, how)
    ours = {tuple(pair) for band in bands for pair in np.sort(candidates(band), axis=1).tolist()}
    index = MinHashLSH(threshold=0.6, num_perm=128)
    hashes = [MinHash(hashvalues=row, scheme="affine32") for row in signatures]
    for name, one in enumerate(hashes):
        index.insert(name, one)
    theirs = {tuple(sorted((name, other))) for name, one in enumerate(hashes) for other in index.query(one)}
    assert ours == {pair for pair in theirs if pair[0] != pair[1]}


@settings(deadline=None)
@given(st.integers(2, 200))
def test_a_crowd_stays_connected_with_linear_work(size: int) -> None:
    """Many rows in one bucket give few pairs, and still one group."""
    pairs = candidates(np.zeros(size, dtype=np.uint64)).tolist()
    assert len(pairs) <= max(size * (size - 1) // 2 if size <= ALL_PAIRS else 0, 2 * size)
    reached, grown = {0}, True
    while grown:
        more = {row for pair in pairs for row in pair if reached & set(pair)}
        grown = not more <= reached
        reached |= more
    assert reached == set(range(size))


@settings(deadline=None)
@given(st.integers(0, 40))
def test_pairs_of_parts_are_counted_through(parts: int) -> None:
    """Every pair of parts comes exactly once."""
    pairs = [part_pair(index) for index in range(pair_count(parts))]
    assert sorted(pairs) == [(left, right) for left in range(parts) for right in range(left, parts)]


@settings(deadline=None)
@given(texts, texts)
def test_exact_hash_is_of_words_and_speakers(question: str, answer: str) -> None:
    """Spaces and case do not count; who said what does."""
    hashes = exact_hashes(
        [example("1", question, answer), example("2", f"  {question.lower()} ", answer), example("3", answer, question)]
    )
    if normal(question) == normal(question.lower()):
        assert (hashes[0] == hashes[1]).all()
    assert normal(question) == normal(answer) or (hashes[0] != hashes[2]).any()


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ("pay 12 or 13", "13, not... 12", False),
        ("pay 12", "pay 12.", True),
        ("I do", "I don't", False),
        ("a", "b", True),
    ],
)
def test_guard_of_facts(left: str, right: str, equal: bool) -> None:
    """Numbers and denials must agree."""
    one, two = guard_hashes([left, right]).tolist()
    assert (one == two) is equal


def test_signing_fits_the_permutations() -> None:
    """Bands never need more values than there are."""
    for threshold in (0.3, 0.6, 0.9, 1.0):
        how = signing(128, threshold)
        assert isinstance(how, Signing)
        assert how.bands * how.rows <= 128
