"""The sticky choice of a variant."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from app.routing.flags import pick
from app.types import ProviderTarget, Variant

TARGET = ProviderTarget("p", "m")
CHI_SQUARE_99 = 9.21  # two degrees of freedom, p = 0.01


def variants(*weights: int) -> list[Variant]:
    """Variants a, b, c… with these weights."""
    return [Variant("abcdef"[index], weight, TARGET) for index, weight in enumerate(weights)]


@given(st.lists(st.integers(1, 100), min_size=1, max_size=6), st.text(), st.text())
def test_the_same_subject_keeps_its_variant(weights: list[int], flag: str, subject: str) -> None:
    """Asking twice gives the same arm, and always one with weight."""
    arms = variants(*weights)
    first = pick(arms, flag=flag, subject=subject)
    assert first is not None
    assert first == pick(arms, flag=flag, subject=subject)


def test_shares_follow_the_weights() -> None:
    """30,000 subjects fall on three arms as their weights say (chi-square, p > 0.01)."""
    arms = variants(20, 30, 50)
    counts = Counter(chosen.name for n in range(30_000) if (chosen := pick(arms, flag="f", subject=f"user-{n}")))
    expected = {"a": 6_000, "b": 9_000, "c": 15_000}
    assert sum((counts[name] - want) ** 2 / want for name, want in expected.items()) < CHI_SQUARE_99


def test_moving_weight_moves_only_its_share() -> None:
    """From 10 to 20 of 100 moves a tenth of the subjects, and only towards the arm that grew."""
    moved = 0
    for n in range(20_000):
        before = pick(variants(90, 10), flag="f", subject=f"user-{n}")
        after = pick(variants(80, 20), flag="f", subject=f"user-{n}")
        if before != after and before is not None and after is not None and before.name != after.name:
            assert (before.name, after.name) == ("a", "b")
            moved += 1
    assert 0.09 < moved / 20_000 < 0.11


def test_a_switched_off_arm_gives_its_subjects_away() -> None:
    """The kill switch leaves no subject without an arm while one is on, and none when all are off."""
    on, off = Variant("on", 1, TARGET), Variant("off", 99, TARGET, enabled=False)
    assert all(pick([on, off], flag="f", subject=str(n)) == on for n in range(100))
    assert pick([off], flag="f", subject="x") is None
    assert pick([Variant("zero", 0, TARGET)], flag="f", subject="x") is None


def test_golden_choices() -> None:
    """The hash is part of the promise: these subjects stay where they are over releases."""
    arms = variants(50, 50)
    names = [chosen.name for n in range(12) if (chosen := pick(arms, flag="support", subject=f"user-{n}"))]
    assert "".join(names) == GOLDEN


GOLDEN = "aaabbabaaaaa"
