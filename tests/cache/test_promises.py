"""How operators see which semantic caches hold their promise, and begin one anew."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cache.key import Labels, label
from app.cache.promise import NEW, Promise, Standing
from app.cache.promises import PORTION, Place, Promises
from app.cache.state import States
from app.storage.redis import RedisStore
from app.types import CachePolicy, CacheStatus, Route
from tests.cache.calls import make_call
from tests.cache.conftest import Caches
from tests.cache.test_cache import PARAPHRASE, found, kept
from tests.support.admin_app import application, client, services
from tests.support.processes import free_port

POLICY = CachePolicy(exact=True, semantic=True)
SUPPORT, SALES = (Route(name, None, (), cache=POLICY) for name in ("support", "sales"))
RAISED = Promise(0.9234567, 5.0, 0.0, 1200, 2, misled=0.91, moved_at=1_800_000_000.0)
OFF = Promise(1.0, 0.0, 0.0, 300, 9, off=True, misled=0.985, moved_at=1_800_000_500.0)


def places(tenant_id: str | None = None) -> Iterable[Place]:
    """Two tenants that share two routes."""
    return [
        (tenant, route) for tenant in ("acme", "bloom") for route in (SALES, SUPPORT) if tenant_id in (None, tenant)
    ]


async def stands(store: RedisStore, tenant: str, route: Route, promise: Promise) -> None:
    """Let a route stand so."""
    labels = Labels(label(route.name), "", "", "")
    await States(store).amend(tenant, labels, lambda _: promise)


@pytest.fixture
async def promises(store: RedisStore) -> Promises:
    """Acme's support raised, bloom's off, the others kept."""
    await stands(store, "acme", SUPPORT, RAISED)
    await stands(store, "bloom", SUPPORT, OFF)
    return Promises(store, places)


@pytest.fixture
async def api(promises: Promises, engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """An administrator."""
    async with client(application(services(engine, tmp_path, promises=promises))) as opened:
        yield opened


async def listed(api: httpx2.AsyncClient, **params: str | int) -> list[dict[str, Any]]:
    """The promises of a listing."""
    answer = await api.get("/cache/promises", params=params)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


async def test_every_route_says_what_was_found_out(api: httpx2.AsyncClient) -> None:
    """Share compared, comparisons, wrong ones, the rate beside its budget, the threshold that follows, and why."""
    sales, support, *_ = await listed(api)
    assert support == {
        "object": "cache.promise",
        "id": "acme/support",
        "tenant": "acme",
        "route": "support",
        "standing": "raised",
        "why": "a hit at 0.910 was wrong: hits need 0.923 now, and less again when enough of them were right",
        "moved_at": 1_800_000_000.0,
        "threshold": 0.9235,
        "route_threshold": 0.84,
        "verify_share": 0.01,
        "comparisons": 1200,
        "wrong": 2,
        "false_hit_rate": 0.001667,
        "false_hit_budget": 0.001,
    }
    assert (sales["standing"], sales["why"], sales["moved_at"], sales["false_hit_rate"]) == ("kept", None, None, None)
    assert (sales["threshold"], sales["comparisons"]) == (0.84, 0)


async def test_a_listing_can_be_narrowed_and_read_in_parts(api: httpx2.AsyncClient) -> None:
    """By tenant, route and standing; after an id, with a word on whether there is more."""
    assert [one["id"] for one in await listed(api, standing="off")] == ["bloom/support"]
    assert [one["id"] for one in await listed(api, tenant="acme")] == ["acme/sales", "acme/support"]
    assert [one["id"] for one in await listed(api, route="sales")] == ["acme/sales", "bloom/sales"]
    first = (await api.get("/cache/promises", params={"limit": 3})).json()
    assert ([one["id"] for one in first["data"]][-1], first["has_more"]) == ("bloom/sales", True)
    rest = (await api.get("/cache/promises", params={"limit": 3, "after": "bloom/sales"})).json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (["bloom/support"], False)
    assert (await api.get("/cache/promises", params={"standing": "well"})).status_code == 400


async def test_a_route_is_rearmed_and_the_log_says_so(api: httpx2.AsyncClient, promises: Promises) -> None:
    """For one tenant: kept again without evidence, before and after in the audit log, other tenants as they were."""
    answer = await api.post("/cache/promises/rearm", json={"route": "support", "tenant": "bloom"})
    assert answer.status_code == 200, answer.text
    (now,) = answer.json()["data"]
    assert (now["id"], now["standing"], now["comparisons"], now["threshold"]) == ("bloom/support", "kept", 0, 0.84)
    assert [one["standing"] for one in await listed(api, route="support")] == ["raised", "kept"]
    (entry,) = (await api.get("/audit", params={"object": "cache/bloom/support"})).json()["data"]
    assert (entry["before"]["standing"], entry["before"]["wrong"]) == ("off", 9)
    assert (entry["after"]["standing"], entry["after"]["wrong"]) == ("kept", 0)


async def test_a_route_is_rearmed_for_all(api: httpx2.AsyncClient) -> None:
    """Every tenant whose route has evidence; asked again there is nothing to do."""
    first = (await api.post("/cache/promises/rearm", json={"route": "support"})).json()["data"]
    assert [one["id"] for one in first] == ["acme/support", "bloom/support"]
    assert (await api.post("/cache/promises/rearm", json={"route": "support"})).json()["data"] == []
    assert len((await api.get("/audit")).json()["data"]) == 2


@pytest.mark.parametrize("body", [{"route": "other"}, {"route": "support", "tenant": "nobody"}])
async def test_a_route_without_a_semantic_cache_is_named(api: httpx2.AsyncClient, body: dict[str, str]) -> None:
    """404, and nothing is noted."""
    answer = await api.post("/cache/promises/rearm", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "route")
    assert (await api.get("/audit")).json()["data"] == []


async def test_without_redis_nothing_is_said_and_nothing_noted(engine: AsyncEngine, tmp_path: Path) -> None:
    """503 rather than promises that look kept."""
    async with RedisStore.connect(f"redis://127.0.0.1:{free_port()}/0") as nowhere:
        admin = services(engine, tmp_path, promises=Promises(nowhere, places))
        async with client(application(admin)) as api:
            assert (await api.get("/cache/promises")).status_code == 503
            assert (await api.post("/cache/promises/rearm", json={"route": "support"})).status_code == 503
            assert (await api.get("/audit")).json()["data"] == []


async def test_rearmed_it_serves_near_turns_again_with_its_answers(caches: Caches) -> None:
    """What was kept before is found by its meaning at once: re-arming forgets evidence, not answers."""
    cache = caches.make()
    await kept(cache)
    await stands(caches.store, "acme", SUPPORT, OFF)
    assert await found(cache, make_call(PARAPHRASE)) is None
    (before,) = await Promises(caches.store, places).begin_anew("acme", "support")
    assert before.promise == OFF
    answer = await found(cache, make_call(PARAPHRASE))
    assert answer is not None
    assert answer.status is CacheStatus.SEMANTIC


async def test_many_tenants_are_counted_in_portions(store: RedisStore) -> None:
    """More than one portion: each is counted once, by route and standing."""
    tenants = [f"t{number}" for number in range(PORTION + 20)]
    for tenant in tenants[::100]:
        await stands(store, tenant, SUPPORT, OFF)
    promises = Promises(store, lambda _: [(tenant, SUPPORT) for tenant in tenants])
    off = len(tenants[::100])
    assert await promises.census() == {("support", Standing.OFF): off, ("support", Standing.KEPT): len(tenants) - off}
    assert len(await promises.page(only=Standing.OFF, limit=100)) == off
    assert len(await promises.begin_anew(None, "support")) == off
    assert {one.promise for one in await promises.page(limit=10_000)} == {NEW}
