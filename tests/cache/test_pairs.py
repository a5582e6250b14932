"""The labelled pairs: made by their generator, in halves that share nothing, and told apart as promised."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from app.cache.features import features
from app.cache.guard import refusal
from tests.cache.pairs.generate import FOLDER, HALVES, SAME, families, pairs
from tests.cache.pairs.measure import load
from tests.cache.pairs.mutate import passed

KINDS = {"number", "unit", "negation", "polarity", "entity", "date", "code", "language", "order", "intent"}
KINDS |= {"role", "possession"}


@pytest.mark.parametrize("half", HALVES)
def test_the_committed_pairs_are_what_the_generator_makes(half: str) -> None:
    """Nobody has edited them by hand."""
    committed = (FOLDER / f"{half}.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in committed] == pairs(half)


def test_the_halves_share_no_family_and_no_wording() -> None:
    """What the guard was tuned on is not in what it is measured on."""
    tuning, test = families("tuning"), families("test")
    assert not {family.name for family in tuning} & {family.name for family in test}
    assert not {text for family in tuning for text in family.same} & {text for family in test for text in family.same}
    assert not {text for pair in load("tuning") for text in (pair.a, pair.b)} & {
        text for pair in load("test") for text in (pair.a, pair.b)
    }


@pytest.mark.parametrize("half", HALVES)
def test_every_kind_of_near_miss_is_there(half: str) -> None:
    """At least 1,500 near misses and 600 paraphrases in each half, and some of each kind."""
    counts = Counter(pair.kind for pair in load(half))
    assert sum(count for kind, count in counts.items() if kind not in SAME) >= 1500
    assert counts["paraphrase"] >= 600
    assert set(counts) - set(SAME) == KINDS
    assert min(counts.values()) >= 15


def test_the_guard_lets_nothing_through_that_it_was_tuned_on() -> None:
    """Whatever the vectors say, none of the tuning half's near misses passes, and most of its paraphrases do.

    The proof of the cache measures the other half, vectors included.
    """
    judged = [(pair, refusal(features(pair.a), features(pair.b))) for pair in load("tuning")]
    assert [pair for pair, reason in judged if not pair.same and reason is None] == []
    paraphrases = [reason for pair, reason in judged if pair.same]
    assert paraphrases.count(None) / len(paraphrases) >= 0.55


def test_a_question_changed_in_one_word_is_another_question() -> None:
    """Closed by default: of thousands of mutants only those pass that ask the same after all, or are no English."""
    found, made = passed("tuning")
    assert made >= 15_000
    assert len(found) / made <= 0.0025, found
