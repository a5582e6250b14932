"""Pools, adapter versions and clocks for tests of placement."""

from __future__ import annotations

from typing import Any

from app.types import AdapterTarget, AdapterVersion, Pool, Price, Target


class Clock:
    """Time that tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Now."""
        return self.now


def pool(*urls: str, **fields: Any) -> Pool:
    """A pool of two GPU slots and four adapters in host memory."""
    sizes = {"max_loras": 2, "max_cpu_loras": 4, "load_timeout_seconds": 5.0, "connect_timeout_seconds": 2.0}
    return Pool(**{"name": "pool", "replicas": urls, "base_model": "base", **sizes, **fields})


def adapter(number: int | str, tenant: str = "acme") -> AdapterVersion:
    """A version whose path says which one it is."""
    name = f"{tenant}--a{number}@{number:0>12}"
    return AdapterVersion(name, tenant, f"a{number}", f"{number:0>64}", f"/adapters/{name}", "base", 8)


def on_pool(version: AdapterVersion | None = None) -> Target:
    """A target on the pool."""
    model = "base" if version is None else version.id
    return Target("pool", model, Price(0, 0), adapter=version, is_pool=True)


def spec(name: str) -> AdapterTarget:
    """What a route says."""
    return AdapterTarget("pool", name)
