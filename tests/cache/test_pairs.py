"""The labelled pairs: made by their generator, in halves that share nothing, and told apart as promised."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from app.cache.embedder import MiniLM
from app.types import CachePolicy
from tests.cache.pairs.generate import FOLDER, HALVES, families, pairs
from tests.cache.pairs.measure import judge, load, rates

KINDS = {"number", "unit", "negation", "polarity", "entity", "date", "code", "language", "order", "intent"}


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
    """At least a thousand pairs in each half, and some of each kind."""
    counts = Counter(pair.kind for pair in load(half))
    assert counts.total() >= 1000
    assert set(counts) == KINDS | {"paraphrase"}
    assert min(counts.values()) >= 15


async def test_the_semantic_tier_keeps_its_promise(minilm: MiniLM) -> None:
    """At the default threshold: at most one near miss in a thousand is served, and 60 % of the paraphrases are.

    On the half it was tuned on; the proof of the cache measures the other.
    """
    judged = await judge(load("tuning"), minilm)
    threshold = CachePolicy().threshold
    guarded, bare = rates(judged, threshold), rates(judged, threshold, guarded=False)
    assert guarded.false_hit_rate <= 0.001, [one.pair for one in judged if not one.pair.same and one.hits(threshold)]
    assert guarded.recall >= 0.6
    assert bare.false_hit_rate > 0.3  # without the guard the same threshold would serve a third of them
