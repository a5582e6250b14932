"""The guard, over every route that the admin API has: nobody gets in without the secret, whatever they send."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.routing import APIRoute
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.admin.guard import AdminRoute
from app.api.admin.router import router
from app.api.body import MAX_BODY_BYTES
from app.auth.api_keys import new_key
from tests.support.admin_app import ADMIN_KEY, application, client, services


def every_route(part: Any) -> Iterator[APIRoute]:
    """Every route of a router and of the routers in it."""
    for route in part.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from every_route(inner)
        else:
            yield route


def calls(app: Any) -> list[tuple[str, str]]:
    """Method and path of every operation, as the application itself lists them."""
    paths = app.openapi()["paths"].items()
    return [(method.upper(), path.replace("{", "x").replace("}", "")) for path, item in paths for method in item]


@pytest.fixture
def app(engine: AsyncEngine, tmp_path: Path) -> Any:
    """The application."""
    return application(services(engine, tmp_path))


async def test_every_route_refuses_whoever_has_not_the_secret(app: Any, admin: httpx2.AsyncClient, tenant: str) -> None:
    """No key, a tenant's key, an unknown key, other schemes and near misses are 401 on every route, none but 401."""
    made = await admin.post(f"/tenants/{tenant}/keys", json={})
    strangers = [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {made.json()['secret']}",
        f"Bearer {new_key().secret}",
        f"Bearer {ADMIN_KEY}x",
        f"Bearer {ADMIN_KEY[:-1]}",
        f"Basic {ADMIN_KEY}",
        ADMIN_KEY,
    ]
    listed = calls(app)
    assert len(listed) == len(list(every_route(router))) > 20
    async with client(app, None) as nobody:
        for method, path in listed:
            for value in strangers:
                headers = {} if value is None else {"authorization": value}
                answer = await nobody.request(method, f"http://gateway{path}", json={}, headers=headers)
                assert answer.status_code == 401, (method, path, value)
                assert answer.json()["error"]["code"] == "invalid_api_key"
                assert answer.headers["www-authenticate"] == "Bearer"


def test_every_route_is_of_the_guarded_kind() -> None:
    """A new module that forgets the route class is found here."""
    assert all(isinstance(route, AdminRoute) for route in every_route(router))


async def test_the_secret_is_asked_for_before_the_body(app: Any) -> None:
    """What is sent without the secret is not even parsed: broken JSON and a body over the limit are 401 too."""
    async with client(app, None) as nobody:
        for content in (b"{", b"x" * (MAX_BODY_BYTES + 1)):
            answer = await nobody.post("/tenants", content=content, headers={"content-type": "application/json"})
            assert answer.status_code == 401


async def test_an_empty_secret_opens_nothing(engine: AsyncEngine, tmp_path: Path) -> None:
    """An installation whose secret is empty is closed, also to those who send an empty one."""
    async with client(application(services(engine, tmp_path, admin_key="")), None) as nobody:
        for value in ("Bearer ", "Bearer", "", "Bearer x"):
            assert (await nobody.get("/tenants", headers={"authorization": value})).status_code == 401


async def test_a_body_over_the_limit_is_413_in_the_envelope(admin: httpx2.AsyncClient) -> None:
    """One byte more than the limit is refused, with or without a length in the head."""

    async def parts() -> Any:
        for _ in range(MAX_BODY_BYTES // 1024):
            yield b" " * 1024
        yield b" "

    headers = {"content-type": "application/json"}
    for content in (b" " * (MAX_BODY_BYTES + 1), parts()):
        answer = await admin.post("/tenants", content=content, headers=headers)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"


async def test_the_secret_is_in_no_representation(engine: AsyncEngine, tmp_path: Path) -> None:
    """What might be printed of the services does not hold it."""
    assert ADMIN_KEY not in repr(services(engine, tmp_path))
