"""Two gateways over one Redis and one database, tenants with their adapters, and what every alias meant when."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from tests.prove.judge import Adapter, Place, Tally
from tests.prove.markers import Marker
from tests.support.gateway import PRICE, Gateway, gateway
from tests.support.processes import free_port, stop

ALIAS = "champion"
LEDGER_SECONDS = 60.0
ADMIN_KEY = "prove-adapters-admin-key-0123456789abcdef"
REGISTRARS = 4


@dataclass(slots=True)
class World:
    """What callers and troublemakers act on; each gateway keeps its address when it is started again."""

    gateways: list[Gateway]
    adapters: dict[Place, Adapter]
    keys: dict[str, str]
    running: list[ExitStack]
    ports: list[int]
    folder: Path
    settings: dict[str, Any]

    async def flip(self, place: Place, number: int) -> None:
        """Let the alias mean the adapter's other version, told to this gateway; to the other one if it is killed.

        Whether the killed one has changed anything is unknown: the flip is confirmed when the other one says so.
        """
        adapter, (tenant, name) = self.adapters[place], place
        path = f"/tenants/{tenant}/adapters/{name}/aliases/{ALIAS}"
        asked = {"version": adapter.flipping(time.monotonic())}
        try:
            await asyncio.to_thread(self.gateways[number].call, "PUT", path, asked)
        except httpx2.TransportError:
            await asyncio.to_thread(self.gateways[1 - number].call, "PUT", path, asked)
        adapter.flipped(time.monotonic())

    async def restart_gateway(self, number: int) -> None:
        """Kill -9 one gateway and start it again; returns when it says that it is ready."""
        self.gateways[number].process.kill()
        await asyncio.to_thread(self.running[number].close)
        self.running[number] = ExitStack()
        self.gateways[number] = await asyncio.to_thread(self.start, number)

    async def check_ledger(self, tally: Tally) -> None:
        """Count the answers whose version the ledger does not name, once; entries are waited for a while."""
        until = time.monotonic() + LEDGER_SECONDS
        while True:
            noted = await asyncio.to_thread(self._ledger)
            tally.not_in_ledger = sum(noted[name] != [version] for name, version in tally.answered.items())
            if not tally.not_in_ledger or time.monotonic() > until:
                return
            await asyncio.sleep(1)

    def _ledger(self) -> defaultdict[str, list[str]]:
        noted: defaultdict[str, list[str]] = defaultdict(list)
        with closing(sqlite3.connect(f"file:{self.folder}/data/tunegate.sqlite3?mode=ro", uri=True)) as database:
            for name, version in database.execute("SELECT request_id, adapter_version FROM ledger"):
                noted[name].append(version)
        return noted

    def warnings(self) -> Counter[str]:
        """What gateways have warned of, by event."""
        lines = [line for log in self.folder.glob("gateway-*/*.log") for line in log.read_text().splitlines()]
        return Counter(json.loads(line).get("event", "?") for line in lines if line.startswith("{"))

    def close(self) -> None:
        """End every gateway."""
        for running in self.running:
            running.close()

    def start(self, number: int) -> Gateway:
        """Start a gateway process on the shared stores."""
        folder = self.folder / f"gateway-{number}"
        started = gateway(folder, self.settings, admin_key=ADMIN_KEY, port=self.ports[number])
        return self.running[number].enter_context(started)


@asynccontextmanager
async def build(
    folder: Path, pool: dict[str, Any], made: Sequence[Marker], *, tenants: int, swapped: int
) -> AsyncIterator[World]:
    """Gateways with every tenant, route and adapter in place; the last `swapped` markers are second versions."""
    with _redis(folder) as redis_url, ExitStack() as stack:
        settings = {
            "data_folder": str(folder / "data"),
            "redis_url": redis_url,
            "redis_timeout_ms": 2000,  # a busy machine is not a Redis that is away: that has a promise of its own
            "pools": [pool],
            "prices": {"models": {"pool/*": PRICE}},
            "cache": {"semantic": False},
            "telemetry": {"log_level": "warning", "log_format": "json"},
        }
        world = World([], {}, {}, [ExitStack(), ExitStack()], [free_port(), free_port()], folder, settings)
        stack.callback(world.close)
        world.gateways.append(await asyncio.to_thread(world.start, 0))
        await asyncio.to_thread(_register, world, made[: len(made) - swapped], made[len(made) - swapped :], tenants)
        world.gateways.append(await asyncio.to_thread(world.start, 1))
        yield world


def _register(world: World, first: Sequence[Marker], second: Sequence[Marker], tenants: int) -> None:
    names = -(-len(first) // tenants)
    places = [(f"t{number % tenants:03d}", f"a{number // tenants:03d}") for number in range(len(first))]
    with ThreadPoolExecutor(REGISTRARS) as pool:
        list(pool.map(lambda number: _tenant(world, f"t{number:03d}"), range(tenants)))
        list(pool.map(lambda number: _route(world, f"a{number:03d}"), range(names)))
        rounds: tuple[tuple[Sequence[Marker], dict[str, str]], ...] = ((first, {"alias": ALIAS}), (second, {}))
        for made, alias in rounds:
            jobs = list(zip(places, made, strict=False))
            versions = pool.map(partial(_version, world, alias), jobs)
            for (place, marker), version in zip(jobs, versions, strict=True):
                world.adapters.setdefault(place, Adapter()).versions.append((version, marker.says))


def _tenant(world: World, tenant: str) -> None:
    world.gateways[0].call("POST", "/tenants", {"id": tenant})
    world.keys[tenant] = world.gateways[0].key(tenant)


def _route(world: World, name: str) -> None:
    target = {"pool": "pool", "adapter": name, "alias": ALIAS}
    world.gateways[0].call("PUT", f"/routes/{name}", {"variants": [{"name": "main", "weight": 1, "target": target}]})


def _version(world: World, alias: dict[str, str], job: tuple[tuple[str, str], Marker]) -> str:
    (tenant, name), marker = job
    fields = {"name": name, "path": str(marker.folder), **alias}
    return str(world.gateways[0].call("POST", f"/tenants/{tenant}/adapters", fields)["id"])


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    binary = shutil.which("redis-server")
    assert binary is not None, "redis-server is missing: run `make deps`"
    port = free_port()
    process = subprocess.Popen(
        [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        stop(process)
