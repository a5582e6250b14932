from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from app.admission.estimate import ENOUGH, MAX_ROUTES, OutputEstimator
from app.admission.pricing import cost_microusd, dearest_microusd
from app.types import Price, Usage


def test_until_enough_is_known_the_ceiling_is_held() -> None:
    """One answer fewer than enough still holds what the caller may ask for."""
    estimator = OutputEstimator()
    for _ in range(ENOUGH - 1):
        estimator.learn("r", 5)
    assert estimator.estimate("r", 1000) == 1000
    estimator.learn("r", 5)
    assert estimator.estimate("r", 1000) == 5


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=300, max_size=400), st.integers(1, 6000))
def test_nineteen_of_twenty_answers_fit_what_is_held(lengths: list[int], ceiling: int) -> None:
    """Of the last window the estimate covers 95 per cent, and never more than the caller asked for."""
    estimator = OutputEstimator()
    for length in lengths[: len(lengths) // 16 * 16]:
        estimator.learn("r", length)
    held = estimator.estimate("r", ceiling)
    window = lengths[: len(lengths) // 16 * 16][-256:]
    assert 1 <= held <= ceiling
    assert held == ceiling or sum(length <= held for length in window) >= 0.94 * len(window)


def test_routes_learn_apart_and_their_number_is_bounded() -> None:
    """One route's long answers say nothing of another's, and junk names fill no memory."""
    estimator = OutputEstimator()
    for _ in range(ENOUGH):
        estimator.learn("long", 900)
    assert estimator.estimate("short", 50) == 50
    for i in range(2 * MAX_ROUTES):
        estimator.learn(f"junk-{i}", 1)
    assert len(estimator._seen) == MAX_ROUTES


@settings(deadline=None)
@given(st.integers(0, 10**7), st.integers(0, 10**6), st.integers(0, 10**9), st.integers(0, 10**9))
def test_cost_is_exact_and_rounded_up_once(prompt: int, completion: int, dear: int, dearer: int) -> None:
    """Never less than the true price, never a whole micro-dollar more; no usage at a price is free."""
    used = Usage(prompt, completion)
    cost = cost_microusd(Price(dear, dearer), used)
    exact = prompt * dear + completion * dearer
    assert exact <= cost * 1_000_000 < exact + 1_000_000
    assert cost > 0 or exact == 0
    assert dearest_microusd([Price(dear, dearer), Price(dear + 1, dearer)], used) >= cost
