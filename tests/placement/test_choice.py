"""The choice of a replica: the same in every gateway, steady when replicas come and go, bounded in load."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.placement.choice import (
    DISTINCT_PER_SLOT,
    WEIGHTS,
    Candidate,
    choose,
    homeliness,
    is_full,
    lightness,
    residency,
    score,
    vacancy,
)
from app.placement.popularity import Popularity, homes
from app.placement.rendezvous import rank
from app.placement.residency import Level

URLS = tuple(f"http://replica-{number}" for number in range(8))
RANKED = ("http://a", "http://b", "http://c")  # a golden vector: a change of the hash would move every adapter
PLAIN = Candidate("a", 4, 4.0, 2, 4, runs_adapter=False, level=Level.ABSENT, place=0, homes=1, replicas=4)


@st.composite
def _candidates(draw: st.DrawFn) -> list[Candidate]:
    count = draw(st.integers(1, 6))
    loads = draw(st.lists(st.integers(0, 40), min_size=count, max_size=count))
    mean = (sum(loads) + 1) / count
    return [
        Candidate(
            url=f"http://{number}",
            in_flight=load,
            mean_in_flight=mean,
            distinct_adapters=draw(st.integers(0, min(load, 20))),
            max_loras=draw(st.integers(1, 8)),
            runs_adapter=load > 0 and draw(st.booleans()),
            level=draw(st.sampled_from(Level)),
            place=number,
            homes=draw(st.integers(1, 3)),
            replicas=count,
        )
        for number, load in enumerate(loads)
    ]


@given(_candidates(), st.randoms(use_true_random=False))
def test_the_choice_does_not_depend_on_the_order_of_the_candidates(found: list[Candidate], dice: random.Random) -> None:
    """Two gateways that see the same choose the same."""
    shuffled = list(found)
    dice.shuffle(shuffled)
    assert choose(found) == choose(shuffled)


@given(_candidates())
def test_the_best_score_is_chosen_or_waited_for(found: list[Candidate]) -> None:
    """Score, then pick; nobody when the best is full, for another would have to load what the best holds."""
    chosen = choose(found)
    best = max(map(score, found))
    if chosen is None:
        assert any(is_full(candidate) for candidate in found if score(candidate) == best)
    else:
        (taken,) = (candidate for candidate in found if candidate.url == chosen)
        assert score(taken) == best
        assert not is_full(taken)


def test_nobody_is_chosen_of_nobody() -> None:
    """Without a candidate there is no choice."""
    assert choose([]) is None


@given(_candidates())
def test_every_scorer_stays_within_its_bounds(found: list[Candidate]) -> None:
    """A scorer says from 0 to 1, so that weights mean what they say."""
    for candidate in found:
        for scorer in WEIGHTS:
            assert 0 <= scorer(candidate) <= 1


def test_scorers_order_as_their_words_say() -> None:
    """Idle before busy, running before free before full, GPU before host before disk, home before stranger."""
    assert lightness(replace(PLAIN, in_flight=0)) > lightness(PLAIN) > lightness(replace(PLAIN, in_flight=7))
    running, full = replace(PLAIN, runs_adapter=True), replace(PLAIN, distinct_adapters=9)
    assert vacancy(running) == 1 > vacancy(PLAIN) > vacancy(full) == 0
    levels = [residency(replace(PLAIN, level=level)) for level in Level]
    assert levels == sorted(levels)
    places = [homeliness(replace(PLAIN, place=place)) for place in range(4)]
    assert places == sorted(places, reverse=True)
    assert homeliness(replace(PLAIN, place=1, homes=2)) == 1


def test_a_replica_with_too_many_adapters_in_flight_is_full_but_for_those_it_runs() -> None:
    """VLLM would let the call wait without regard to its age."""
    many = replace(PLAIN, distinct_adapters=DISTINCT_PER_SLOT * PLAIN.max_loras)
    assert is_full(many)
    assert not is_full(replace(many, runs_adapter=True))
    assert choose([many]) is None


def test_every_process_ranks_alike() -> None:
    """The order is a function of the key and the addresses alone, whatever order they are given in."""
    assert rank("acme--a@1", URLS) == rank("acme--a@1", tuple(reversed(URLS)))
    assert rank("acme--a@1", ("http://b", "http://a", "http://c")) == RANKED


def test_a_replica_that_leaves_moves_only_its_own_keys() -> None:
    """Everybody else's home stays."""
    for number in range(500):
        before, after = rank(f"a{number}", URLS), rank(f"a{number}", URLS[1:])
        assert after == tuple(url for url in before if url != URLS[0])


def test_homes_are_spread_evenly() -> None:
    """Of 8,000 adapters each of eight replicas is home to an eighth, within four standard deviations."""
    counted = Counter(rank(f"a{number}", URLS)[0] for number in range(8000))
    assert all(abs(count - 1000) < 4 * sqrt(8000 / 8 * 7 / 8) for count in counted.values())


@given(st.floats(0, 1), st.integers(1, 16), st.integers(1, 16))
def test_homes_are_within_bounds_and_settle(share: float, replicas: int, has: int) -> None:
    """From one to all; asked again with the answer, the answer stays."""
    found = homes(share, replicas, has=min(has, replicas))
    assert 1 <= found <= replicas
    assert homes(share, replicas, has=found) == found


def test_homes_grow_at_once_and_shrink_with_hesitation() -> None:
    """A share at the border of two numbers does not move to and fro."""
    assert homes(0.26, 8, has=4) == 5
    assert homes(0.24, 8, has=5) == 5
    assert homes(0.15, 8, has=5) == 3


def test_hot_adapters_have_more_homes_and_lose_them_again() -> None:
    """A flash crowd is seen within seconds and forgotten within minutes; a cold adapter has one home."""
    popularity = Popularity(half_life_seconds=60)
    for number in range(1000):
        popularity.count(f"cold-{number}", 1.0)
    for _ in range(1000):
        popularity.count("hot", 2.0)
    assert popularity.share("hot") == pytest.approx(0.5, abs=0.02)
    assert popularity.homes("hot", 8) == 8
    assert popularity.homes("cold-1", 8) == 1
    assert popularity.hottest(1) == ["hot"]
    for minute in range(20):
        for number in range(100):
            popularity.count(f"cold-{number}", 60.0 * (minute + 1))
    assert popularity.homes("hot", 8) == 1


def test_popularity_stays_finite_and_small_for_ever() -> None:
    """Weeks of calls neither overflow the counts nor keep adapters that nobody calls."""
    popularity = Popularity(half_life_seconds=10)
    for day in range(30):
        for number in range(1000):
            popularity.count(f"{day}-{number}", day * 86_400.0 + number)
    assert len(popularity._counts) <= 21_000
    assert 0 < popularity.share("29-999") <= 1
