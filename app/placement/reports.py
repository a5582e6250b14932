"""Who hears of what placement does; nobody unless told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Observe = Callable[[str, str, float], None]
Placed = Callable[[str, float], None]


def ignore(pool: str, outcome: str, seconds: float) -> None:
    """Observes nothing."""


def ignore_placed(pool: str, seconds: float) -> None:
    """Observes nothing."""


@dataclass(frozen=True, slots=True)
class PlacementReports:
    """`adapter`: pool, outcome and seconds of every load and unload. `placed`: pool and seconds that a call waited."""

    adapter: Observe = ignore
    placed: Placed = ignore_placed
