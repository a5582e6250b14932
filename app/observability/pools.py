"""The servers of every pool as this gateway process sees them, at the time of a scrape.

Calls are this process's own, so a panel adds them up over gateways; what a server is and holds every gateway sees
alike, so a panel takes the greatest of their figures. A server that is gone has no series.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from app.observability.series import MAX_NAMES
from app.types import PoolStatus

SERVER = ("pool", "replica")


def families(pools: Sequence[PoolStatus]) -> Iterator[Metric]:
    """Gauges of every pool and server, and a counter of restarts."""
    waiting = GaugeMetricFamily(
        "gateway_pool_calls_waiting", "Calls that wait for room on any server.", labels=("pool",)
    )
    up = GaugeMetricFamily("gateway_replica_up", "1 for a server that answers its probes.", labels=SERVER)
    calls = GaugeMetricFamily("gateway_replica_calls", "Calls of this gateway there.", labels=(*SERVER, "state"))
    adapters = GaugeMetricFamily("gateway_replica_adapters", "Adapters there.", labels=(*SERVER, "level"))
    restarts = CounterMetricFamily("gateway_replica_restarts", "Times that it had lost all names.", labels=SERVER)
    for pool in pools:
        waiting.add_metric((pool.name,), pool.waiting)
    for server, replica in islice(
        (((pool.name, replica.url), replica) for pool in pools for replica in pool.replicas), MAX_NAMES
    ):
        up.add_metric(server, float(replica.healthy))
        restarts.add_metric(server, replica.restarts)
        for state, count in (("held", replica.held), ("loading", replica.loading), ("running", replica.running)):
            calls.add_metric((*server, state), count)
        for level, names in (("registered", replica.registered), ("host", replica.host), ("gpu", replica.gpu)):
            adapters.add_metric((*server, level), len(names))
    return iter((waiting, up, calls, adapters, restarts))
