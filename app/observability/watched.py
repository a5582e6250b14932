"""Gauges of what stands now: their sources are asked at the time of a scrape, and so must not wait.

Fail mode: a value that has no source has no series, rather than a zero that looks well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric

from app.observability import pools, surveyed
from app.observability.series import MAX_NAMES
from app.observability.surveyed import Surveyed
from app.types import PoolStatus

BREAKER_STATES = ("closed", "open", "half_open")


class Watched:
    """Gauges whose value is asked for at the time of a scrape; those without a source are left out."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], Callable[[], float]] = {}
        self._breakers: Callable[[], Mapping[str, str]] | None = None
        self._surveyed: Callable[[], Surveyed] = Surveyed
        self._pools: Callable[[], Sequence[PoolStatus]] = tuple

    def value(self, name: str, says: str, source: Callable[[], float]) -> None:
        """Ask this source for the gauge of that name."""
        self._values[name, says] = source

    def breakers(self, source: Callable[[], Mapping[str, str]]) -> None:
        """Ask this source for the state of each upstream's breaker."""
        self._breakers = source

    def surveyed(self, source: Callable[[], Surveyed]) -> None:
        """Ask this source for what waits in the stores."""
        self._surveyed = source

    def pools(self, source: Callable[[], Sequence[PoolStatus]]) -> None:
        """Ask this source for the servers of every pool."""
        self._pools = source

    def ask(self) -> list[Metric]:
        """Ask every source once."""
        asked: list[Metric] = [GaugeMetricFamily(name, says, source()) for (name, says), source in self._values.items()]
        asked += surveyed.families(self._surveyed())
        if described := self._pools():
            asked += pools.families(described)
        return asked if self._breakers is None else [*asked, self._states(self._breakers())]

    @staticmethod
    def _states(states: Mapping[str, str]) -> Metric:
        family = GaugeMetricFamily(
            "gateway_upstream_breaker_state", "1 for the state that the breaker is in.", labels=("upstream", "state")
        )
        for upstream in sorted(states)[:MAX_NAMES]:
            for state in BREAKER_STATES:
                family.add_metric((upstream, state), float(states[upstream] == state))
        return family
