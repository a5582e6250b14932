"""Which replica takes a call: filter, then score, then pick. Pure.

Filter: `ReplicaSet` leaves out those that are not well while others are. Score: the weighted sum of small scorers, each
in [0, 1]. Pick: the highest, ties by the key's own order. Is the best full, the call waits until it is not, or until
another is better: whichever had room just then would load the adapter from disk, and soon all hold everything in turn.
The weights were searched for in the simulation of `benchmarks/placement.py`: few loads from disk, short waits for a
slot, and no replica far above the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from app.placement.residency import Level

DISTINCT_PER_SLOT = 4  # adapters in flight on one replica, for each of its GPU slots, before it counts as full


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica as the choice sees it, for one call.

    `place` is its place in the key's own order of all replicas, 0 first; `homes` the number of replicas at that order's
    head on which the adapter is at home. `mean_in_flight` is that of all usable replicas with this call counted.
    """

    url: str
    in_flight: int
    mean_in_flight: float
    distinct_adapters: int
    max_loras: int
    runs_adapter: bool
    level: Level
    place: int
    homes: int
    replicas: int


Scorer = Callable[[Candidate], float]


def lightness(candidate: Candidate) -> float:
    """1 when idle, 0.5 at the mean, 0 from twice the mean on."""
    return max(0.0, 1 - (candidate.in_flight + 1) / (2 * candidate.mean_in_flight))


def running(candidate: Candidate) -> float:
    """1 when the adapter already runs there: the call joins its batch."""
    return float(candidate.runs_adapter)


def vacancy(candidate: Candidate) -> float:
    """1 when the adapter already runs there (no slot is needed), else the share of free GPU slots."""
    if candidate.runs_adapter:
        return 1.0
    return 1 - min(1.0, candidate.distinct_adapters / candidate.max_loras)


def residency(candidate: Candidate) -> float:
    """Ideal in a GPU slot, nearly as good in host memory (milliseconds), bad on disk."""
    if candidate.runs_adapter:
        return 1.0
    return {Level.GPU: 1.0, Level.HOST: 0.9, Level.ABSENT: 0.0}[candidate.level]


def homeliness(candidate: Candidate) -> float:
    """1 on the adapter's homes, falling with the place in its order after them."""
    return 1 - max(0, candidate.place - candidate.homes + 1) / candidate.replicas


WEIGHTS: Mapping[Scorer, float] = {lightness: 14.0, running: 2.0, vacancy: 6.0, residency: 3.0, homeliness: 0.3}


def is_full(candidate: Candidate) -> bool:
    """Whether a call would queue behind too many other adapters: vLLM defers it, without regard to its age."""
    return not candidate.runs_adapter and candidate.distinct_adapters >= DISTINCT_PER_SLOT * candidate.max_loras


def score(candidate: Candidate) -> float:
    """The weighted sum of all scorers."""
    return sum(weight * scorer(candidate) for scorer, weight in WEIGHTS.items())


def choose(candidates: Sequence[Candidate]) -> str | None:
    """The replica for one more call; None when there is none, or the best is full."""
    best = max(candidates, key=lambda candidate: (score(candidate), -candidate.place), default=None)
    return None if best is None or is_full(best) else best.url
