"""API keys over the admin API, on both databases."""

from __future__ import annotations

import time
from typing import Any

import httpx2
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.api_keys import digest
from app.storage.tables import LIMITS, keys
from app.types import Operation


async def refused(answer: httpx2.Response, status: int, param: str | None) -> None:
    """The answer is this refusal."""
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param


async def test_the_secret_is_shown_once_and_stored_nowhere(
    admin: httpx2.AsyncClient, tenant: str, engine: AsyncEngine
) -> None:
    """The answer to POST has it; later answers and the whole row have its first characters and its SHA-256 only."""
    made = (await admin.post(f"/tenants/{tenant}/keys", json={"name": "app"})).json()
    secret, one = made["secret"], f"/tenants/{tenant}/keys/{made['id']}"
    for answer in (
        await admin.get(one),
        await admin.get(f"/tenants/{tenant}/keys"),
        await admin.patch(one, json={"name": "renamed"}),
        await admin.post(f"{one}/revoke"),
    ):
        assert answer.status_code == 200
        assert secret not in answer.text
        assert secret[:12] in answer.text
    async with engine.connect() as connection:
        row = (await connection.execute(select(keys).where(keys.c.id == made["id"]))).mappings().one()
    assert bytes(row["digest"]) == digest(secret.encode())
    assert secret[12:] not in repr(dict(row))


async def test_defaults_and_every_field(admin: httpx2.AsyncClient, tenant: str) -> None:
    """A key may do everything unless it is told; what it is told comes back."""
    path = f"/tenants/{tenant}/keys"
    plain = (await admin.post(path, json={})).json()
    assert plain["operations"] == sorted(Operation)
    assert plain["routes"] is None
    assert plain["limits"] == dict.fromkeys(LIMITS)
    assert plain["expires_at"] is None
    await admin.post(f"/tenants/{tenant}/teams", json={"id": "red"})
    body: dict[str, Any] = {
        "name": "app",
        "team_id": "red",
        "operations": ["chat"],
        "routes": ["support", "openai/gpt-4o"],
        "limits": {"requests_per_minute": 60, "budget_month_microusd": 0},
        "expires_at": time.time() + 3600,
    }
    made = (await admin.post(path, json=body)).json()
    for name in ("name", "team_id", "operations", "expires_at"):
        assert made[name] == body[name]
    assert sorted(made["routes"]) == sorted(body["routes"])
    assert made["limits"] == {**dict.fromkeys(LIMITS), **body["limits"]}
    assert {key["id"] for key in (await admin.get(path)).json()["data"]} == {plain["id"], made["id"]}


async def test_a_patch_changes_what_is_sent_and_null_takes_away(admin: httpx2.AsyncClient, tenant: str) -> None:
    """Scopes, limits and expiry change one by one."""
    made = (await admin.post(f"/tenants/{tenant}/keys", json={"name": "a", "routes": ["x"]})).json()
    one = f"/tenants/{tenant}/keys/{made['id']}"
    del made["secret"]
    for patch, expected in (
        ({"limits": {"tokens_per_day": 7}}, {"limits": {**made["limits"], "tokens_per_day": 7}}),
        ({"operations": ["embeddings"]}, {"operations": ["embeddings"]}),
        ({"expires_at": 2_000_000_000}, {"expires_at": 2_000_000_000}),
        ({"routes": None, "expires_at": None, "name": None}, {"routes": None, "expires_at": None, "name": None}),
        ({}, {}),
    ):
        made |= expected
        assert (await admin.patch(one, json=patch)).json() == made
    assert (await admin.get(one)).json() == made


async def test_revoking_twice_keeps_the_first_instant(admin: httpx2.AsyncClient, tenant: str) -> None:
    """Revocation is for ever and can be repeated."""
    made = (await admin.post(f"/tenants/{tenant}/keys", json={})).json()
    one = f"/tenants/{tenant}/keys/{made['id']}"
    first = (await admin.post(f"{one}/revoke")).json()
    assert first["revoked_at"] is not None
    assert (await admin.post(f"{one}/revoke")).json() == first


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"operations": []}, "operations"),
        ({"operations": ["admin"]}, "operations[0]"),
        ({"operations": None}, "operations"),
        ({"routes": ["ok", "not ok"]}, "routes[1]"),
        ({"routes": "support"}, "routes"),
        ({"expires_at": 5}, "expires_at"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": -1}, "expires_at"),
        ({"team_id": "No"}, "team_id"),
        ({"name": 5}, "name"),
        *(
            ({field: "x"}, field)
            for field in ("id", "tenant_id", "digest", "prefix", "secret", "revoked_at", "deleted")
        ),
    ],
)
async def test_wrong_and_foreign_fields_are_named(
    admin: httpx2.AsyncClient, tenant: str, body: dict[str, Any], param: str
) -> None:
    """Wrong values and columns that are not the caller's are 400, and no key is made."""
    await refused(await admin.post(f"/tenants/{tenant}/keys", json=body), 400, param)
    assert (await admin.get(f"/tenants/{tenant}/keys")).json()["data"] == []


@pytest.mark.parametrize("field", ["tenant_id", "team_id", "digest", "prefix", "revoked_at", "id"])
async def test_a_patch_cannot_touch_what_a_key_is(admin: httpx2.AsyncClient, tenant: str, field: str) -> None:
    """Owner, digest and revocation are no fields of a PATCH."""
    made = (await admin.post(f"/tenants/{tenant}/keys", json={})).json()
    one = f"/tenants/{tenant}/keys/{made.pop('id')}"
    before = (await admin.get(one)).json()
    await refused(await admin.patch(one, json={field: "x", "name": "changed"}), 400, field)
    assert (await admin.get(one)).json() == before


async def test_a_key_belongs_to_its_tenant_only(admin: httpx2.AsyncClient, tenant: str) -> None:
    """Through another tenant's path it is not there, and nothing done to it there has an effect."""
    await admin.post("/tenants", json={"id": f"{tenant}-other"})
    made = (await admin.post(f"/tenants/{tenant}/keys", json={"name": "mine"})).json()
    elsewhere = f"/tenants/{tenant}-other/keys/{made['id']}"
    await refused(await admin.get(elsewhere), 404, "key")
    await refused(await admin.patch(elsewhere, json={"name": "theirs"}), 404, "key")
    await refused(await admin.post(f"{elsewhere}/revoke"), 404, "key")
    here = (await admin.get(f"/tenants/{tenant}/keys/{made['id']}")).json()
    assert here["name"] == "mine"
    assert here["revoked_at"] is None


@pytest.mark.parametrize("key_id", ["key_1", "x", "key_" + "0" * 24, "key_" + "G" * 24, "%00", "a%20b"])
async def test_hostile_and_absent_ids_are_refused(admin: httpx2.AsyncClient, tenant: str, key_id: str) -> None:
    """An id of another form is 400, an absent one 404, on every database."""
    answer = await admin.get(f"/tenants/{tenant}/keys/{key_id}")
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
