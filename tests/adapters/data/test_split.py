from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.data.groups import Groups
from adapters.data.split import DROPPED, STRATUM, TEST, TRAIN, VALIDATION, Facts, assign, group_roots, tabulate
from adapters.settings import Splitting

RULES = Splitting()
names = st.sampled_from(("", *"abcdefgh"))


@st.composite
def rows(draw: st.DrawFn, most: int = 60) -> list[Facts]:
    """Rows whose customers, clusters and parents run across each other."""
    count = draw(st.integers(0, most))
    return [
        Facts(
            id=str(row),
            customer=draw(names),
            cluster=draw(names),
            topic=draw(st.sampled_from("xy")),
            parent=str(draw(st.integers(0, most))) if draw(st.integers(0, 9)) == 0 else "",
            synthetic=draw(st.integers(0, 9)) == 0,
        )
        for row in range(count)
    ]


def _lonely(count: int, topics: int = 3) -> list[Facts]:
    return [Facts(id=f"t{row}", topic=f"topic{row % topics}") for row in range(count)]


def _sides(facts: list[Facts], rules: Splitting = RULES) -> list[int]:
    sides: list[int] = assign(tabulate(facts, rules.seed), rules).tolist()
    return sides


@settings(deadline=None)
@given(rows())
def test_nothing_is_on_two_sides(facts: list[Facts]) -> None:
    """No customer, no cluster and no family of synthetic rows is divided, whatever joins what."""
    sides = _sides(facts)
    where: dict[str, set[int]] = defaultdict(set)
    for fact, side in zip(facts, sides, strict=True):
        if side == DROPPED:
            continue
        marks = [("customer", fact.customer), ("cluster", fact.cluster), ("family", fact.parent or fact.id)]
        for kind, mark in marks:
            if mark:
                where[f"{kind}:{mark}"].add(side)
    assert all(len(found) == 1 for found in where.values())


@settings(deadline=None)
@given(rows())
def test_synthetic_rows_never_judge(facts: list[Facts]) -> None:
    """A synthetic row is in train or nowhere."""
    for fact, side in zip(facts, _sides(facts), strict=True):
        assert not fact.synthetic or side in {TRAIN, DROPPED}
        assert fact.synthetic or side != DROPPED


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 300), st.integers(1, 300), st.integers(1, 4))
def test_growth_moves_nobody(before: int, added: int, topics: int) -> None:
    """Rows that join no groups change no side of a topic that had its ten groups."""
    old, new = _sides(_lonely(before, topics)), _sides(_lonely(before + added, topics))
    settled = {topic for topic, count in Counter(row % topics for row in range(before)).items() if count >= STRATUM}
    assert all(old[row] == new[row] for row in range(before) if row % topics in settled)


def test_shares_and_strata() -> None:
    """Of many rows 80/10/10 go to each side within what chance allows, in every topic."""
    sides = _sides(_lonely(9_000))
    for topic in range(3):
        counts = Counter(sides[topic::3])
        assert abs(counts[TEST] / 3_000 - 0.1) < 0.025
        assert abs(counts[VALIDATION] / 3_000 - 0.1) < 0.025


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=5))
def test_a_small_topic_is_judged_too(seed: str) -> None:
    """Of ten groups exactly one is in test and one in validation, whatever the seed."""
    counts = Counter(_sides(_lonely(STRATUM, topics=1), Splitting(seed=seed)))
    assert counts == {TRAIN: 8, VALIDATION: 1, TEST: 1}


def test_another_seed_divides_otherwise() -> None:
    """The seed is what makes the division."""
    assert _sides(_lonely(300)) == _sides(_lonely(300))
    assert _sides(_lonely(300)) != _sides(_lonely(300), Splitting(seed="2"))


def test_a_crowd_goes_to_train() -> None:
    """One customer with half of all tickets is never the judge, whatever the seed."""
    facts = [Facts(id=str(row), customer="big" if row % 2 else "", topic="x") for row in range(100)]
    for seed in range(20):
        sides = _sides(facts, Splitting(seed=str(seed)))
        assert {side for side, fact in zip(sides, facts, strict=True) if fact.customer} == {TRAIN}


def test_chains_are_one_group() -> None:
    """A customer's ticket, its near copy by another customer, and that one's synthetic child belong together."""
    facts = [
        Facts(id="1", customer="ann", cluster="c"),
        Facts(id="2", customer="ben", cluster="c"),
        Facts(id="3", customer="ben"),
        Facts(id="4", parent="3", synthetic=True),
        Facts(id="5", parent="gone", synthetic=True),
        Facts(id="6", parent="gone", synthetic=True),
        Facts(id="7"),
    ]
    assert group_roots(tabulate(facts, "1")).tolist() == [0, 0, 0, 0, 4, 4, 6]


@settings(deadline=None)
@given(st.integers(1, 30), st.data())
def test_groups_are_the_connected_components(size: int, data: st.DataObject) -> None:
    """Union-find says what a flood fill says, in any order of unions, with the smallest row as root."""
    row = st.integers(0, size - 1)
    pairs = data.draw(st.lists(st.tuples(row, row), max_size=40))
    groups = Groups(size)
    groups.union_all(pairs)
    expected = list(range(size))
    for _ in range(size):
        for left, right in pairs:
            expected[left] = expected[right] = min(expected[left], expected[right])
    assert groups.roots().tolist() == expected


def test_union_equal_ignores_zero() -> None:
    """Rows without a key stay alone."""
    groups = Groups(5)
    groups.union_equal(np.array([0, 7, 0, 7, 8], dtype=np.uint64))
    assert groups.roots().tolist() == [0, 1, 2, 1, 4]
