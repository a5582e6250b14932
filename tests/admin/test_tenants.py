"""Tenants and teams over the admin API, on both databases."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from app.storage.tables import LIMITS

NO_LIMITS: dict[str, int | None] = dict.fromkeys(LIMITS)


async def refused(answer: httpx2.Response, status: int, param: str | None) -> None:
    """The answer is this refusal."""
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param


async def test_a_tenant_is_made_found_listed_changed_and_deleted(admin: httpx2.AsyncClient) -> None:
    """The whole life of a tenant; what is not sent stays, null takes away."""
    made = await admin.post("/tenants", json={"id": "life", "name": "Life", "limits": {"tokens_per_day": 5}})
    assert made.status_code == 201
    assert made.json()["limits"] == {**NO_LIMITS, "tokens_per_day": 5}
    assert (await admin.get("/tenants/life")).json() == made.json()
    assert made.json() in (await admin.get("/tenants")).json()["data"]
    changed = await admin.patch("/tenants/life", json={"limits": {"requests_per_minute": 60}})
    assert changed.json() == {**made.json(), "limits": {**NO_LIMITS, "tokens_per_day": 5, "requests_per_minute": 60}}
    cleared = await admin.patch("/tenants/life", json={"name": None, "limits": {"tokens_per_day": None}})
    assert cleared.json()["name"] is None
    assert cleared.json()["limits"] == {**NO_LIMITS, "requests_per_minute": 60}
    assert (await admin.delete("/tenants/life")).status_code == 204
    await refused(await admin.get("/tenants/life"), 404, "tenant")
    assert "life" not in [tenant["id"] for tenant in (await admin.get("/tenants")).json()["data"]]


async def test_an_id_is_never_used_twice(admin: httpx2.AsyncClient) -> None:
    """Neither while the tenant is there nor after it is gone: its ledger still carries the name."""
    await admin.post("/tenants", json={"id": "once"})
    await refused(await admin.post("/tenants", json={"id": "once"}), 409, "id")
    await admin.delete("/tenants/once")
    await refused(await admin.post("/tenants", json={"id": "once"}), 409, "id")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "id"),
        ({"id": ""}, "id"),
        ({"id": "Big"}, "id"),
        ({"id": "a--b"}, "id"),
        ({"id": "-a"}, "id"),
        ({"id": "a-"}, "id"),
        ({"id": "a/b"}, "id"),
        ({"id": "*"}, "id"),
        ({"id": "a\n"}, "id"),
        ({"id": "a" * 64}, "id"),
        ({"id": 7}, "id"),
        ({"id": "x1", "name": "n" * 201}, "name"),
        ({"id": "x1", "name": "a\x00b"}, "name"),
        ({"id": "x1", "limits": {"requests_per_minute": -1}}, "limits.requests_per_minute"),
        ({"id": "x1", "limits": {"requests_per_minute": 1.5}}, "limits.requests_per_minute"),
        ({"id": "x1", "limits": {"requests_per_minute": True}}, "limits.requests_per_minute"),
        ({"id": "x1", "limits": {"requests_per_minute": "60"}}, "limits.requests_per_minute"),
        ({"id": "x1", "limits": {"budget_day_microusd": 10**16}}, "limits.budget_day_microusd"),
        ({"id": "x1", "limits": {"rpm": 1}}, "limits.rpm"),
        ({"id": "x1", "limits": None}, "limits"),
    ],
)
async def test_wrong_fields_are_named(admin: httpx2.AsyncClient, body: dict[str, Any], param: str) -> None:
    """Each wrong value is 400 with its field."""
    await refused(await admin.post("/tenants", json=body), 400, param)


@pytest.mark.parametrize("field", ["revision", "deleted", "created_at", "digest", "tenant_id", "role", "admin"])
async def test_fields_that_are_not_the_callers_are_refused(admin: httpx2.AsyncClient, tenant: str, field: str) -> None:
    """Mass assignment: an inner column in a body is 400 that names it, and nothing is made or changed."""
    await refused(await admin.post("/tenants", json={"id": "mass", field: 1}), 400, field)
    assert (await admin.get("/tenants/mass")).status_code == 404
    before = (await admin.get(f"/tenants/{tenant}")).json()
    await refused(await admin.patch(f"/tenants/{tenant}", json={"name": "new", field: 1}), 400, field)
    assert (await admin.get(f"/tenants/{tenant}")).json() == before


async def test_listings_come_in_parts(admin: httpx2.AsyncClient, tenant: str) -> None:
    """Every item once, in order, however small the parts are."""
    names = [f"team{number:02}" for number in range(7)]
    for name in reversed(names):
        assert (await admin.post(f"/tenants/{tenant}/teams", json={"id": name})).status_code == 201
    found: list[str] = []
    while True:
        after = f"&after={found[-1]}" if found else ""
        part = (await admin.get(f"/tenants/{tenant}/teams?limit=3{after}")).json()
        found += [team["id"] for team in part["data"]]
        if not part["has_more"]:
            break
        assert len(part["data"]) == 3
    assert found == names
    for query, param in (("limit=0", "limit"), ("limit=1001", "limit"), ("after=%00", "after"), ("page=2", "page")):
        await refused(await admin.get(f"/tenants/{tenant}/teams?{query}"), 400, param)


async def test_the_life_of_a_team(admin: httpx2.AsyncClient, tenant: str) -> None:
    """A team with keys that work stays; without them it can go, and its id is not used again."""
    teams = f"/tenants/{tenant}/teams"
    made = await admin.post(teams, json={"id": "red", "limits": {"concurrent_requests": 3}})
    assert made.json()["limits"] == {**NO_LIMITS, "concurrent_requests": 3}
    await refused(await admin.post(teams, json={"id": "red"}), 409, "id")
    changed = await admin.patch(f"{teams}/red", json={"name": "Red", "limits": {"tokens_per_minute": 9}})
    assert changed.json()["limits"] == {**NO_LIMITS, "concurrent_requests": 3, "tokens_per_minute": 9}
    assert (await admin.get(f"{teams}/red")).json() == changed.json()
    key = (await admin.post(f"/tenants/{tenant}/keys", json={"team_id": "red"})).json()
    await refused(await admin.delete(f"{teams}/red"), 409, "team")
    await admin.post(f"/tenants/{tenant}/keys/{key['id']}/revoke")
    assert (await admin.delete(f"{teams}/red")).status_code == 204
    await refused(await admin.get(f"{teams}/red"), 404, "team")
    await refused(await admin.post(teams, json={"id": "red"}), 409, "id")


async def test_a_team_belongs_to_its_tenant_only(admin: httpx2.AsyncClient, tenant: str) -> None:
    """Through another tenant's path it is not there, and that tenant's keys cannot join it."""
    await admin.post("/tenants", json={"id": f"{tenant}-other"})
    await admin.post(f"/tenants/{tenant}/teams", json={"id": "red"})
    elsewhere = f"/tenants/{tenant}-other/teams/red"
    await refused(await admin.get(elsewhere), 404, "team")
    await refused(await admin.patch(elsewhere, json={"name": "mine"}), 404, "team")
    await refused(await admin.delete(elsewhere), 404, "team")
    await refused(await admin.post(f"/tenants/{tenant}-other/keys", json={"team_id": "red"}), 404, "team")
    for path in ("/tenants/absent/teams", "/tenants/absent/keys", "/tenants/absent/routes", "/tenants/absent/adapters"):
        await refused(await admin.get(path), 404, "tenant")
