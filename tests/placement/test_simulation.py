"""`make bench-placement` in short: the figures that placement is held to, beside those of other ways."""

from __future__ import annotations

from benchmarks.placement import OURS, measure

CALLS, SEEDS = 15_000, (1,)
OTHERS = ("consistent hash", "affinity", "llm-d")


def test_placement_meets_its_figures_beside_the_others() -> None:
    """Zipf 0.9: disk at most 3 %, imbalance at most 1.2, and no other way lets fewer calls wait for a slot."""
    ours = measure(OURS, "0.9", calls=CALLS, seeds=SEEDS)
    others = {name: measure(name, "0.9", calls=CALLS, seeds=SEEDS) for name in OTHERS}
    assert ours.disk <= 0.03
    assert ours.imbalance <= 1.2
    assert ours.deferred <= min(other.deferred for other in others.values())
    assert ours.p99 <= min(other.p99 for other in others.values())
