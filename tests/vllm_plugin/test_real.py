"""The plugin inside a real vLLM: what it tells, what it frees, and that the gateway's mirror says the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass

import httpx2
import pytest

from app.backends.failover import Failover
from app.backends.health import Health, RetryBudget
from app.backends.provider import HttpBackend
from app.engine.options import packaged_model
from app.placement.placement import ReplicaPlacement
from app.storage.artifacts import import_adapter
from app.types import AdapterVersion
from tests.backends.calls import Noted, call, choice
from tests.placement.adapters import on_pool, pool
from tests.prove.markers import Shape, write_marker
from tests.support.vllm import vllm_server

pytestmark = pytest.mark.vllm
ADAPTERS = 8


@dataclass(frozen=True, slots=True)
class Running:
    """A vLLM with the plugin, and adapters in the folder that it resolves from."""

    url: str
    versions: list[AdapterVersion]

    def residency(self) -> dict[str, list[str]]:
        """What the plugin tells."""
        found: dict[str, list[str]] = httpx2.get(f"{self.url}/v1/tunegate/residency", timeout=60).json()
        return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two slots, four adapters in host memory."""
    folder = tmp_path_factory.mktemp("plugin")
    shape = Shape.of(packaged_model())
    sources = [write_marker(folder / "source" / str(number), shape, number) for number in range(ADAPTERS)]
    versions = [import_adapter(folder, "acme", f"a{number}", str(source)) for number, source in enumerate(sources)]
    environment = {"VLLM_PLUGINS": "tunegate", "TUNEGATE_ADAPTERS": str(folder / "adapters")}
    with vllm_server(packaged_model(), max_loras=2, max_cpu_loras=4, environment=environment) as (url, _):
        assert httpx2.get(f"{url}/v1/tunegate/residency", timeout=60).status_code == 200, (
            "the plugin is not installed there: run `make vllm`"
        )
        yield Running(url, versions)


async def test_the_mirror_and_the_truth_are_one(server: Running) -> None:
    """After any calls the gateway's mirror of both levels is what vLLM's own workers hold, in the same order."""
    dice = random.Random(5)
    pools = {"pool": pool(server.url, load_timeout_seconds=60.0, check_effect=False)}
    async with ReplicaPlacement({}, pools) as placement, HttpBackend() as backend:
        failover = Failover(placement, backend, backend, Health(), RetryBudget())
        replica = placement._sets["pool"].replicas[server.url]
        for _ in range(30):
            version = dice.choice(server.versions)
            asked = call(max_tokens=2, temperature=0)
            target = choice(on_pool(version))
            async with failover.reach(target, asked, Noted(), "req", "me") as (_, upstream):
                _ = [block async for block in upstream.blocks()]
            truth = server.residency()
            known = set(replica.registered)
            assert [name for name in truth["gpu"] if name in known] == list(replica.residency.gpu)
            assert [name for name in truth["host"] if name in known] == [
                name for name in replica.residency.host if name in known
            ]


def test_a_content_address_is_resolved_on_demand_and_a_path_is_not(server: Running) -> None:
    """A name that vLLM does not know is found in the folder; a hostile one is 404, and the server lives."""
    version = server.versions[7]
    httpx2.post(f"{server.url}/v1/unload_lora_adapter", json={"lora_name": version.id}, timeout=60)
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    path = f"{server.url}/v1/chat/completions"
    assert httpx2.post(path, json={"model": version.id, **body}, timeout=60).status_code == 200
    for hostile in ("../../etc", f"/{version.path}", version.id[:-1] + "0" * 3, "acme--a7@000000000000"):
        assert httpx2.post(path, json={"model": hostile, **body}, timeout=60).status_code == 404
    assert httpx2.get(f"{server.url}/health", timeout=60).status_code == 200


def test_removing_frees_and_pinning_keeps(server: Running) -> None:
    """`remove` frees both levels at once, which vLLM's own unload does not; unknown names are 404."""
    version = server.versions[6]
    loaded = httpx2.post(
        f"{server.url}/v1/load_lora_adapter", json={"lora_name": version.id, "lora_path": version.path}, timeout=60
    )
    assert loaded.status_code in (200, 400)
    assert httpx2.post(f"{server.url}/v1/tunegate/pin", json={"lora_name": version.id}, timeout=60).status_code == 200
    assert version.id in server.residency()["gpu"]
    removed = httpx2.post(f"{server.url}/v1/tunegate/remove", json={"lora_name": version.id}, timeout=60)
    assert removed.json() == {"removed": version.id, "freed": True}
    told = server.residency()
    assert version.id not in told["gpu"] + told["host"]
    for path in ("remove", "pin"):
        answer = httpx2.post(f"{server.url}/v1/tunegate/{path}", json={"lora_name": "nobody"}, timeout=60)
        assert answer.status_code == 404


async def test_what_a_call_runs_under_is_not_removed(server: Running) -> None:
    """While an answer streams its adapter's removal is 409; once the answer has ended it is removed."""
    version = server.versions[5]
    body = {"model": version.id, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 200, "stream": True}
    name = {"lora_name": version.id}
    async with httpx2.AsyncClient(base_url=server.url, timeout=60) as client:
        async with client.stream("POST", "/v1/chat/completions", json={**body, "ignore_eos": True}) as answer:
            assert answer.status_code == 200
            lines = answer.aiter_lines()
            await anext(lines)
            assert (await client.post("/v1/tunegate/remove", json=name)).status_code == 409
            rest = [line async for line in lines]
        assert "data: [DONE]" in rest
        while (removed := await client.post("/v1/tunegate/remove", json=name)).status_code == 409:
            await asyncio.sleep(0.05)
    assert removed.json() == {"removed": version.id, "freed": True}
