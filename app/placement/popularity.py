"""How much of the traffic each adapter takes, and so how many homes it has. Pure but for the instants it is given.

Counts fade with a half-life, so a flash crowd is seen within seconds and forgotten within minutes. The number of homes
follows the share, upwards at once and downwards only when the share has clearly fallen: an adapter at the border of two
numbers does not move to and fro, for every move is a load.
"""

from __future__ import annotations

import math
from collections import Counter

HALF_LIFE_SECONDS = 120.0
HOMES_PER_SHARE = 2.0  # an adapter with 1/N of the traffic fills one replica of N alone, so it gets two homes
SHRINK_MARGIN = 1.25
PRUNE_AT = 20_000
NEGLIGIBLE = 0.01
FORGOTTEN_AFTER_HALF_LIVES = 64.0
LARGEST_UNIT = 1e100


def homes(share: float, replicas: int, *, has: int = 1) -> int:
    """The number of homes for an adapter with this share of the traffic, from 1 to all replicas."""
    wanted = share * replicas * HOMES_PER_SHARE
    grown, shrunk = _within(wanted, replicas), _within(wanted * SHRINK_MARGIN, replicas)
    return grown if grown > has else min(has, shrunk)


def _within(wanted: float, replicas: int) -> int:
    return max(1, min(replicas, math.ceil(wanted)))


class Popularity:
    """Fading counts of calls, by adapter."""

    def __init__(self, *, half_life_seconds: float = HALF_LIFE_SECONDS) -> None:
        self._half_life = half_life_seconds
        self._counts: Counter[str] = Counter()
        self._homes: dict[str, int] = {}
        self._unit = 1.0  # what one call counts now; it grows, instead of all counts shrinking
        self._total = 0.0
        self._at: float | None = None

    def count(self, adapter: str, now: float) -> None:
        """One more call."""
        self._fade(now)
        self._counts[adapter] += self._unit  # type: ignore[assignment]  # typeshed's Counter holds whole numbers only
        self._total += self._unit

    def share(self, adapter: str) -> float:
        """The adapter's part of all calls, 0 to 1."""
        return self._counts[adapter] / self._total if adapter in self._counts else 0.0

    def homes(self, adapter: str, replicas: int) -> int:
        """How many of so many replicas the adapter is at home on."""
        found = homes(self.share(adapter), replicas, has=self._homes.get(adapter, 1))
        if found > 1:
            self._homes[adapter] = found
        else:
            self._homes.pop(adapter, None)
        return found

    def hottest(self, most: int) -> list[str]:
        """The adapters with the most calls, hottest first."""
        return [adapter for adapter, _ in self._counts.most_common(most)]

    def _fade(self, now: float) -> None:
        passed = 0.0 if self._at is None else (now - self._at) / self._half_life
        self._at = now
        if passed > FORGOTTEN_AFTER_HALF_LIVES:
            self._counts.clear()
            self._total = 0.0
            return
        self._unit *= 2 ** max(0.0, passed)
        if self._unit > LARGEST_UNIT:
            self._rescale()
        if len(self._counts) > PRUNE_AT:
            self._prune()

    def _rescale(self) -> None:
        for adapter in self._counts:
            self._counts[adapter] /= self._unit  # type: ignore[assignment]  # as above
        self._total /= self._unit
        self._unit = 1.0

    def _prune(self) -> None:
        """Forget what has not been called for many half-lives."""
        self._counts = Counter({a: n for a, n in self._counts.items() if n > NEGLIGIBLE * self._unit})
        self._total = float(sum(self._counts.values()))
        self._homes = {adapter: has for adapter, has in self._homes.items() if adapter in self._counts}
