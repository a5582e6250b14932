"""How many tokens an answer will likely have: a high quantile of what the route has lately answered.

Holding `max_tokens` for every call would lock a budget up long before it is spent; holding a typical length would let a
burst of long answers overshoot it. The 95th percentile of the last 256 answers of a route, never above what the caller
asked for, bounds both. Each process learns for itself; until it has seen 32 answers it holds the upper bound.
"""

from __future__ import annotations

from collections import deque

QUANTILE = 0.95
WINDOW = 256
ENOUGH = 32
REFRESH = 16
MAX_ROUTES = 4096


class OutputEstimator:
    """Learns output lengths per route; routes come from configuration, their number is bounded all the same."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[int]] = {}
        self._learned: dict[str, int] = {}
        self._new: dict[str, int] = {}

    def learn(self, route: str, tokens: int) -> None:
        """One answer of `route` had this many completion tokens."""
        if route not in self._seen and len(self._seen) >= MAX_ROUTES:
            return
        window = self._seen.setdefault(route, deque(maxlen=WINDOW))
        window.append(tokens)
        fresh = self._new.get(route, 0) + 1
        if len(window) >= ENOUGH and (fresh >= REFRESH or route not in self._learned):
            self._learned[route] = sorted(window)[min(len(window) - 1, int(QUANTILE * len(window)))]
            fresh = 0
        self._new[route] = fresh

    def estimate(self, route: str, ceiling: int) -> int:
        """Tokens to hold for one answer of `route`, at most `ceiling`, at least one."""
        return max(1, min(ceiling, self._learned.get(route, ceiling)))
