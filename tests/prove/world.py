"""Two gateways over one Redis and one database, tenants with their adapters, and what every alias meant when."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.prove.markers import Marker
from tests.support.gateway import PRICE, Gateway, gateway
from tests.support.processes import free_port, stop

SETTLE_SECONDS = 1.0  # a flip must be visible everywhere within it
ALIAS = "champion"
ADMIN_KEY = "prove-adapters-admin-key-0123456789abcdef"
REGISTRARS = 4


@dataclass(slots=True)
class Meaning:
    """What an alias meant from the moment a flip was asked for until the moment the next one was confirmed."""

    index: int
    since: float
    until: float = float("inf")


@dataclass(slots=True)
class Adapter:
    """One tenant's adapter: its versions (id and what it says), and what the alias has meant."""

    versions: list[tuple[str, str]] = field(default_factory=list)
    meanings: list[Meaning] = field(default_factory=lambda: [Meaning(0, 0.0)])

    def may_say(self, asked_at: float, answered_at: float) -> set[str]:
        """What an answer to a call of that time may be: nothing that was out of date for the settling time."""
        return {
            self.versions[meaning.index][1]
            for meaning in self.meanings
            if meaning.since <= answered_at and meaning.until + SETTLE_SECONDS >= asked_at
        }

    def seconds_late(self, said: str, asked_at: float) -> float:
        """How long before the call the last meaning that says this had ended."""
        ends = [meaning.until for meaning in self.meanings if self.versions[meaning.index][1] == said]
        return asked_at - max((end for end in ends if end <= asked_at), default=asked_at)

    def ever(self) -> set[str]:
        """What any of its versions says."""
        return {said for _, said in self.versions}


@dataclass(slots=True)
class World:
    """What callers and troublemakers act on."""

    gateways: list[Gateway]
    adapters: dict[tuple[str, str], Adapter]
    keys: dict[str, str]
    speakers: dict[str, tuple[str, str]]
    running: list[ExitStack]
    folder: Path
    settings: dict[str, Any]

    async def flip(self, place: tuple[str, str]) -> None:
        """Let the alias mean the adapter's other version."""
        adapter, (tenant, name) = self.adapters[place], place
        old = adapter.meanings[-1]
        adapter.meanings.append(Meaning(1 - old.index, time.monotonic()))
        version, _ = adapter.versions[1 - old.index]
        path = f"/tenants/{tenant}/adapters/{name}/aliases/{ALIAS}"
        await asyncio.to_thread(self.gateways[0].call, "PUT", path, {"version": version})
        old.until = time.monotonic()

    async def restart_gateway(self, number: int) -> None:
        """Kill -9 one gateway, let callers go to the other one as a load balancer would, and start it again."""
        old = self.gateways[number]
        old.process.kill()
        self.gateways[number] = self.gateways[1 - number]
        await asyncio.to_thread(self.running[number].close)
        self.running[number] = ExitStack()
        self.gateways[number] = await asyncio.to_thread(self.start, number)

    def close(self) -> None:
        """End every gateway."""
        for running in self.running:
            running.close()

    def start(self, number: int) -> Gateway:
        """Start a gateway process on the shared stores."""
        started = gateway(self.folder / f"gateway-{number}", self.settings, admin_key=ADMIN_KEY)
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
            "pools": [pool],
            "prices": {"models": {"pool/*": PRICE}},
            "cache": {"semantic": False},
            "telemetry": {"log_level": "warning"},
        }
        world = World([], {}, {}, {}, [ExitStack(), ExitStack()], folder, settings)
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
                world.speakers[marker.says] = place


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
