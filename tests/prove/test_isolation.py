"""Isolation over real processes: no caller's name and no caller's path reaches a model server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from app.engine.options import packaged_model
from tests.support.gateway import PRICE, Gateway, gateway
from tests.support.replica import FakeReplica, fake_replica

TENANTS = ("acme", "bloom")
ADMIN_PATHS = [
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/v1/tunegate/residency",
    "/v1/tunegate/remove",
    "/tokenize",
    "/detokenize",
    "/invocations",
    "/pause",
    "/sleep",
    "/update_weights",
    "/collective_rpc",
    "/reset_prefix_cache",
    "/v1/../v1/load_lora_adapter",
    "/v1/chat/completions/../../load_lora_adapter",
    "/v1//load_lora_adapter",
    "/%76%31/load_lora_adapter",
]
HOSTILE = [
    "base",
    "acme--support",
    "../../etc/passwd",
    "/etc",
    "acme--support@000000000000",
    "support\x00",
    "support/../support",
    "",
    "a" * 10_000,
    "hf://evil/model",
    "http://evil.example/adapter",
]


@dataclass(frozen=True, slots=True)
class World:
    """A gateway with two tenants who share one route, and the server behind it."""

    gateway: Gateway
    server: FakeReplica
    keys: dict[str, str]
    versions: dict[str, str]

    async def ask(self, tenant: str, model: str, **fields: object) -> httpx2.Response:
        """A chat call."""
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}
        headers = {"authorization": f"Bearer {self.keys[tenant]}"}
        async with httpx2.AsyncClient(timeout=30) as client:
            return await client.post(f"{self.gateway.url}/v1/chat/completions", json=body, headers=headers)


@asynccontextmanager
async def _world(folder: Path) -> AsyncIterator[World]:
    async with fake_replica() as server:
        pool = {"name": "pool", "replicas": [server.url], "max_loras": 2, "max_cpu_loras": 4}
        settings = {"pools": [pool], "prices": {"models": {"pool/*": PRICE}}, "cache": {"semantic": False}}
        starting = gateway(folder, settings)
        running = await asyncio.to_thread(starting.__enter__)
        try:
            keys, versions = await asyncio.to_thread(_register, running)
            yield World(running, server, keys, versions)
        finally:
            await asyncio.to_thread(starting.__exit__, None, None, None)


def _register(running: Gateway) -> tuple[dict[str, str], dict[str, str]]:
    keys, versions = {}, {}
    for tenant in TENANTS:
        running.call("POST", "/tenants", {"id": tenant})
        path = str(packaged_model().parent / "adapters" / tenant)
        added = running.call(
            "POST", f"/tenants/{tenant}/adapters", {"name": "support", "path": path, "alias": "champion"}
        )
        versions[tenant] = str(added["id"])
        keys[tenant] = running.key(tenant)
    target = {"pool": "pool", "adapter": "support"}
    running.call("PUT", "/routes/support", {"variants": [{"name": "main", "weight": 1, "target": target}]})
    return keys, versions


async def test_tenants_are_kept_apart_and_names_are_never_passed_on(tmp_path: Path) -> None:
    """One route, two tenants, two adapters; foreign versions, paths and made-up names are 404 and reach no server."""
    async with _world(tmp_path) as world:
        for tenant in TENANTS:
            said = (await world.ask(tenant, "support")).json()["choices"][0]["message"]["content"]
            assert world.versions[tenant] in said
        before = len(world.server.requests)
        for name in (*HOSTILE, *world.versions.values()):
            answer = await world.ask("acme", name)
            assert answer.status_code in (400, 404), name[:40]
            assert answer.json()["error"]["param"] == "model", name[:40]
        assert len(world.server.requests) == before
        await _paths(world)
        await _fields(world)


async def _paths(world: World) -> None:
    """The server's own paths answer nobody through the gateway, whatever the method and the key."""
    before = len(world.server.requests)
    body = {"lora_name": "evil", "lora_path": "/tmp/evil"}
    async with httpx2.AsyncClient(base_url=world.gateway.url, timeout=30) as client:
        for path in ADMIN_PATHS:
            for secret in (world.keys["acme"], world.gateway.admin_key):
                headers = {"authorization": f"Bearer {secret}"}
                for method in ("GET", "POST"):
                    answer = await client.request(method, path, json=body, headers=headers)
                    assert answer.status_code in (404, 405), f"{method} {path}: {answer.status_code}"
    assert len(world.server.requests) == before
    assert "evil" not in world.server.names


async def _fields(world: World) -> None:
    """What reaches into the serving machine is dropped; the prefix cache is salted per tenant, not by the caller."""
    salts = []
    for tenant in TENANTS:
        answer = await world.ask(tenant, "support", cache_salt="mine", chat_template="{{ evil }}", priority=-1)
        assert answer.status_code == 200
        sent = world.server.requests[-1][1]
        assert not {"chat_template", "priority"} & sent.keys()
        salts.append(sent["cache_salt"])
    assert len(set(salts)) == len(TENANTS)
    assert "mine" not in salts
