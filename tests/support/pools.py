"""A pool as placement tells of it, for tests of who shows it."""

from __future__ import annotations

from app.types import PoolStatus, ReplicaStatus

SEEN = PoolStatus(
    name="main",
    base_model="base",
    waiting=4,
    replicas=[
        ReplicaStatus(
            url="http://a",
            healthy=True,
            in_flight=9,
            adapters_in_flight=2,
            held=3,
            loading=2,
            running=1,
            restarts=5,
            has_plugin=False,
            registered=["x", "y", "z"],
            gpu=["x"],
            host=["x", "y"],
            refused={"w": "rank 64 is too high"},
        )
    ],
)
