"""What waits in the stores, as a gateway last saw it: training jobs, webhook deliveries, promises of the cache.

Every gateway sees the same stores, so a panel takes the greatest of their figures and never the sum. Fail mode: what
is not known has no series.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from prometheus_client.core import GaugeMetricFamily, Metric

from app.observability.series import MAX_NAMES, OTHER

MAX_ROUTES = MAX_NAMES


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What was seen; None is not known.

    `jobs` are those that have not ended, by state. Seconds: how long the queued job that waits longest has waited, and
    how long ago the most overdue delivery was due (0: none is). `promises` are tenants, by route and standing.
    """

    jobs: Mapping[str, int] | None = None
    oldest_queued_seconds: float | None = None
    deliveries: int | None = None
    deliveries_late_seconds: float | None = None
    promises: Mapping[tuple[str, str], int] | None = None


def families(seen: Surveyed) -> Iterator[Metric]:
    """The gauges of all that is known."""
    for name, says, value in (
        ("training_oldest_queued_seconds", "How long the longest waiting job waits.", seen.oldest_queued_seconds),
        ("webhook_deliveries_waiting", "Deliveries that are to be tried, now or later.", seen.deliveries),
        ("webhook_deliveries_late_seconds", "How overdue the latest delivery is.", seen.deliveries_late_seconds),
    ):
        if value is not None:
            yield GaugeMetricFamily(f"gateway_{name}", says, value)
    if seen.jobs is not None:
        jobs = {(state,): count for state, count in seen.jobs.items()}
        yield _family("training_jobs", "Training jobs that have not ended.", ("state",), jobs.items())
    if seen.promises is not None:
        says = "Tenants by how their semantic cache stands with its promise."
        yield _family("cache_promises", says, ("route", "standing"), _bounded(seen.promises))


def _family(name: str, says: str, labels: tuple[str, ...], counted: Iterable[tuple[tuple[str, ...], int]]) -> Metric:
    family = GaugeMetricFamily(f"gateway_{name}", says, labels=labels)
    for values, count in counted:
        family.add_metric(values, count)
    return family


def _bounded(promises: Mapping[tuple[str, str], int]) -> Iterator[tuple[tuple[str, str], int]]:
    """The first routes by name, the rest together under `other`."""
    kept = set(sorted({route for route, _ in promises})[:MAX_ROUTES])
    named = sorted(
        (route if route in kept else OTHER, standing, count) for (route, standing), count in promises.items()
    )
    for key, group in groupby(named, key=itemgetter(0, 1)):
        yield key, sum(count for _, _, count in group)
