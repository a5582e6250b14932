"""One running system for the journey: engine and gateway, once on the embedded stores, once on PostgreSQL and Redis."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pytest

from tests.support.engine import engine_server
from tests.support.gateway import PRICE, Gateway, gateway
from tests.support.postgres import new_database

TENANTS = ("acme", "bloom", "corvid")
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class World:
    """A gateway in front of an engine, with helpers to make tenants of one's own."""

    gateway: Gateway
    engine_url: str

    def tenant(self, like: str = "acme", **fields: Any) -> str:
        """A fresh tenant with a copy of one of the shipped adapters as `support@champion`."""
        name = f"t{next(_numbers)}-{like}"
        self.gateway.call("POST", "/tenants", {"id": name, "name": name, **fields})
        path = str(files("app.engine") / "assets" / "adapters" / like)
        self.gateway.call("POST", f"/tenants/{name}/adapters", {"name": "support", "path": path, "alias": "champion"})
        return name


@pytest.fixture(scope="session")
def engine_url() -> Iterator[str]:
    """One reference engine with the shipped base model and vLLM's two LRU levels."""
    with engine_server(max_loras=2, max_cpu_loras=4) as url:
        yield url


@pytest.fixture(scope="session", params=["embedded", pytest.param("servers", marks=pytest.mark.postgres)])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, engine_url: str) -> Iterator[World]:
    """The whole system on the embedded stores, then the same on real servers."""
    settings: dict[str, Any] = {
        "pools": [{"name": "main", "replicas": [engine_url], "max_loras": 2, "max_cpu_loras": 4}],
        "prices": {"models": {"main/*": PRICE}},
    }
    if request.param == "servers":
        settings["redis_url"] = request.getfixturevalue("redis_server")
        settings["database_url"] = new_database(request.getfixturevalue("postgres_server"))
    with gateway(tmp_path_factory.mktemp(f"world-{request.param}"), settings) as running:
        target = {"pool": "main", "adapter": "support", "alias": "champion"}
        variants = [{"name": "champion", "weight": 100, "target": target}]
        running.call("PUT", "/routes/support", {"variants": variants, "cache": {"exact": True, "semantic": True}})
        running.call("PUT", "/routes/plain", {"variants": variants})
        embedded = [{"name": "embedded", "weight": 1, "target": {"embedded": "minilm"}}]
        running.call("PUT", "/routes/minilm", {"variants": embedded})
        yield World(running, engine_url)
