"""Atomic for all gateways: what was confirmed before a call came is what it is decided by, even in a deaf process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import redis

from app.engine.options import packaged_model
from tests.prove.markers import Shape, write_marker
from tests.support.gateway import PRICE, Gateway, gateway
from tests.support.replica import FakeReplica, fake_replica

ADMIN_KEY = "prove-flip-admin-key-0123456789abcdef0123"
FLIPS = 20


@dataclass(frozen=True, slots=True)
class World:
    """A gateway that changes are made at, and one that hears no announcement and never polls."""

    here: Gateway
    deaf: Gateway
    server: FakeReplica
    versions: list[str]
    key: str

    async def flip(self, version: str) -> None:
        """Let the alias mean this version; confirmed when it returns."""
        await self.admin("PUT", "/tenants/acme/adapters/support/aliases/champion", {"version": version})

    async def admin(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One change, confirmed when it returns."""
        return await asyncio.to_thread(self.here.call, method, path, body)

    async def ask(self, key: str | None = None, model: str = "support") -> httpx2.Response:
        """One call at the deaf gateway."""
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        headers = {"authorization": f"Bearer {key or self.key}"}
        async with httpx2.AsyncClient(timeout=30) as client:
            return await client.post(f"{self.deaf.url}/v1/chat/completions", json=body, headers=headers)


@asynccontextmanager
async def _world(folder: Path, redis_url: str) -> AsyncIterator[World]:
    async with fake_replica() as server, AsyncExitStack() as stack:
        with redis.Redis.from_url(redis_url) as control:
            control.acl_setuser(
                "deaf", enabled=True, passwords=["+deaf"], keys=["*"], channels=["*"], commands=["+@all", "-subscribe"]
            )
        settings = {
            "data_folder": str(folder / "data"),
            "redis_url": redis_url,
            "pools": [{"name": "pool", "replicas": [server.url], "max_loras": 2, "max_cpu_loras": 4}],
            "prices": {"models": {"pool/*": PRICE}},
            "cache": {"semantic": False},
        }
        unheard = {"redis_url": redis_url.replace("://", "://deaf:deaf@"), "policy_poll_seconds": 3600}
        here = await _started(stack, folder / "here", settings)
        versions, key = await asyncio.to_thread(_register, here, folder)
        deaf = await _started(stack, folder / "deaf", settings | unheard)
        yield World(here, deaf, server, versions, key)


async def _started(stack: AsyncExitStack, folder: Path, settings: dict[str, Any]) -> Gateway:
    starting = gateway(folder, settings, admin_key=ADMIN_KEY)
    running = await asyncio.to_thread(starting.__enter__)
    stack.push_async_callback(asyncio.to_thread, starting.__exit__, None, None, None)
    return running


def _register(here: Gateway, folder: Path) -> tuple[list[str], str]:
    here.call("POST", "/tenants", {"id": "acme", "limits": {"concurrent_requests": 1}})
    shape, versions = Shape.of(packaged_model()), []
    for seed in range(2):
        fields = {"name": "support", "path": str(write_marker(folder / f"marker-{seed}", shape, seed))}
        versions.append(str(here.call("POST", "/tenants/acme/adapters", fields)["id"]))
    here.call("PUT", "/tenants/acme/adapters/support/aliases/champion", {"version": versions[0]})
    target = {"pool": "pool", "adapter": "support"}
    here.call("PUT", "/routes/support", {"variants": [{"name": "main", "weight": 1, "target": target}]})
    return versions, here.key("acme")


async def test_a_confirmed_change_is_known_to_a_gateway_that_was_told_nothing(tmp_path: Path, redis_url: str) -> None:
    """Flips, a new route, a switched-off one and a revoked key hold for the very next call at the deaf gateway.

    The tenant may run one call at a time: what was held for the first decision is given back before the second one.
    """
    async with _world(tmp_path, redis_url) as world:
        for number in range(FLIPS):
            version = world.versions[number % 2]
            await world.flip(version)
            answer = await world.ask()
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-tunegate-adapter"] == version
            assert version in answer.json()["choices"][0]["message"]["content"]
        await _routes(world)
        second = await world.admin("POST", "/tenants/acme/keys", {"name": "second"})
        assert (await world.ask(str(second["secret"]))).status_code == 200
        await world.admin("POST", f"/tenants/acme/keys/{second['id']}/revoke")
        assert (await world.ask(str(second["secret"]))).status_code == 401


async def _routes(world: World) -> None:
    target = {"pool": "pool", "adapter": "support"}
    route = {"variants": [{"name": "main", "weight": 1, "target": target}]}
    assert (await world.ask(model="later")).status_code == 404
    await world.admin("PUT", "/routes/later", route)
    assert (await world.ask(model="later")).status_code == 200
    await world.admin("PUT", "/routes/later", {**route, "enabled": False})
    assert (await world.ask(model="later")).status_code == 503
