"""Clearing the cache: what is selected is gone for every replica at once, and nothing else is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.admin.services import ADMIN
from app.cache.forget import Forgetter, Selection
from app.cache.promise import Promise
from app.cache.question import Question
from app.storage.redis import RedisStore
from app.types import AdapterVersion, CachePolicy, CacheStatus, Choice, Route
from tests.cache.calls import make_call, make_choice, make_principal, make_target
from tests.cache.conftest import Caches
from tests.cache.test_cache import PARAPHRASE, found, kept
from tests.support.admin_app import application, client, services
from tests.support.processes import free_port

POLICY = CachePolicy(exact=True, semantic=True)


def target(name: str, sha: str) -> Any:
    """A target with this adapter."""
    version = AdapterVersion(f"acme--{name}@{sha[:12]}", "acme", name, sha, "/x", "base", 8)
    return make_target(adapter=version, model=version.id)


PLACES: dict[str, tuple[str, Choice]] = {
    "base": ("acme", make_choice()),
    "variant": ("acme", make_choice(variant="candidate")),
    "route": ("acme", make_choice(route=Route("sales", None, (), cache=POLICY), targets=(target("sales", "c" * 64),))),
    "version": ("acme", make_choice(targets=(target("support", "d" * 64),))),
    "tenant": ("bloom", make_choice()),
}
EVERYTHING = set(PLACES)


@pytest.mark.parametrize(
    ("selection", "gone"),
    [
        (Selection("acme"), {"base", "variant", "route", "version"}),
        (Selection("acme", route="support"), {"base", "variant", "version"}),
        (Selection("acme", route="support", variant="candidate"), {"variant"}),
        (Selection("acme", adapter="support"), {"base", "variant", "version"}),
        (Selection("acme", adapter=f"acme--support@{'d' * 12}"), {"version"}),
        (Selection("acme", route="other"), set()),
        (Selection(route="support"), {"base", "variant", "version", "tenant"}),
        (Selection(adapter="sales"), {"route"}),
    ],
)
async def test_what_is_selected_is_gone(caches: Caches, selection: Selection, gone: set[str]) -> None:
    """By tenant, route, variant, adapter and version; the rest stays, and Redis is rid of what has gone."""
    one, other = caches.make(), caches.make()
    for tenant, choice in PLACES.values():
        await kept(one, choice=choice, principal=make_principal(tenant))
    await caches.drain()
    forgotten = await Forgetter(caches.store, lambda: ("acme", "bloom")).forget(selection)
    assert forgotten == len(gone)
    for place, (tenant, choice) in PLACES.items():
        for turn in (make_call(), make_call(PARAPHRASE)):
            answer = await found(other, turn, choice, make_principal(tenant))
            assert (answer is None) is (place in gone), place
    left = [name for name in await caches.store.command("KEYS", "*") if b":cache" not in name]
    assert len(left) == 2 * len(EVERYTHING - gone)


async def test_many_keys_are_deleted_in_portions(caches: Caches) -> None:
    """More answers than one portion holds are all deleted, other keys of the tenant are not."""
    cache = caches.make(exact_only=True)
    for number in range(1200):
        await kept(cache, make_call(f"Where is parcel {number}?"))
    await caches.store.command("SET", "tg:{acme}:acct:key:x", "1")
    assert await Forgetter(caches.store, tuple).forget(Selection("acme")) == 1200
    assert await caches.store.command("EXISTS", "tg:{acme}:acct:key:x") == 1


async def test_forgetting_a_route_starts_its_promise_anew(caches: Caches) -> None:
    """A semantic tier that had switched itself off is on again; clearing one variant or adapter leaves it off."""
    cache = caches.make()
    asked = cache.ask(make_principal(), make_call(), make_choice())
    assert isinstance(asked, Question)
    states, labels = asked._shelf.states, asked._keys.labels
    await states.amend("acme", labels, lambda _: Promise(off=True))
    forgetter = Forgetter(caches.store, tuple)
    for selection, works in ((Selection("acme", adapter="support"), False), (Selection("acme", route="support"), True)):
        await forgetter.forget(selection)
        await kept(cache)
        answer = await found(cache, make_call(PARAPHRASE))
        assert (answer is not None) is works


@pytest.fixture
async def api(caches: Caches, engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """The admin API with this cache behind it."""
    forgetter = Forgetter(caches.store, lambda: ("acme", "bloom"))
    admin = services(engine, tmp_path, forget_answers=forgetter.forget)
    async with client(application(admin)) as opened:
        yield opened


async def test_an_operator_clears_a_route(caches: Caches, api: httpx2.AsyncClient) -> None:
    """DELETE /admin/v1/cache says how many answers it deleted."""
    cache = caches.make()
    await kept(cache)
    reply = await api.delete("/cache", params={"tenant": "acme", "route": "support"})
    assert (reply.status_code, reply.json()) == (200, {"object": "cache.deleted", "answers": 1})
    assert await found(cache) is None
    (entry,) = (await api.get("/audit")).json()["data"]
    assert (entry["object"], entry["who"], entry["before"]) == ("cache/acme/support", ADMIN, None)
    assert entry["after"] == {"forgotten": {"tenant": "acme", "route": "support"}, "answers": 1}


async def test_answers_of_all_tenants_are_noted_too(api: httpx2.AsyncClient) -> None:
    """What was forgotten of everybody stands under a star, by the adapter where no route was named."""
    await api.delete("/cache", params={"adapter": "support"})
    (entry,) = (await api.get("/audit")).json()["data"]
    assert entry["object"] == "cache/*/support"


async def test_forgetting_does_not_wait_for_sql(caches: Caches, engine: AsyncEngine, tmp_path: Path) -> None:
    """Without an audit log the answers are forgotten all the same, and the gateway's own log says so."""
    cache = caches.make()
    await kept(cache)
    admin = services(engine, tmp_path, forget_answers=Forgetter(caches.store, tuple).forget)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE policy_revision RENAME TO away")
    async with client(application(admin)) as api:
        with structlog.testing.capture_logs() as lines:
            assert (await api.delete("/cache", params={"tenant": "acme"})).status_code == 200
    assert await found(cache) is None
    (line,) = [line for line in lines if line["event"] == "forgetting_not_audited"]
    assert (line["forgotten"], line["answers"]) == ({"tenant": "acme"}, 1)


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({}, "tenant"),
        ({"tenant": "acme", "variant": "x"}, "route"),
        ({"route": "support", "adapter": "support"}, "adapter"),
        ({"tenant": "Acme!"}, "tenant"),
        ({"tenant": "acme", "colour": "red"}, "colour"),
    ],
)
async def test_a_selection_that_says_nothing_or_too_much_is_refused(
    caches: Caches, api: httpx2.AsyncClient, params: dict[str, str], field: str
) -> None:
    """400 names the field, and nothing is forgotten."""
    cache = caches.make()
    await kept(cache)
    reply = await api.delete("/cache", params=params)
    assert reply.status_code == 400
    assert field in str(reply.json()["error"])
    answer = await found(cache)
    assert answer is not None
    assert answer.status is CacheStatus.EXACT


async def test_without_redis_it_says_so(engine: AsyncEngine, tmp_path: Path) -> None:
    """503, for nobody can promise that the answers are gone; the audit log has that it was tried."""
    async with RedisStore.connect(f"redis://127.0.0.1:{free_port()}/0") as nowhere:
        admin = services(engine, tmp_path, forget_answers=Forgetter(nowhere, tuple).forget)
        async with client(application(admin)) as api:
            reply = await api.delete("/cache", params={"tenant": "acme"})
            (entry,) = (await api.get("/audit")).json()["data"]
    assert reply.status_code == 503
    assert entry["after"] == {"forgotten": {"tenant": "acme"}, "answers": None}


async def test_a_tenant_may_not_clear_anything(caches: Caches, tmp_path: Path) -> None:
    """Without the admin secret nothing is forgotten."""
    admin = services(
        cast("AsyncEngine", None), tmp_path, forget_answers=Forgetter(caches.store, lambda: ("acme",)).forget
    )
    cache = caches.make()
    await kept(cache)
    async with client(application(admin), "sk-someone") as api:
        assert (await api.delete("/cache", params={"tenant": "acme"})).status_code == 401
    assert await found(cache) is not None
