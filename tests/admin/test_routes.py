"""Routes over the admin API: checked against what the gateway knows before they are stored."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx2
import pytest

ADAPTER = {"pool": "main", "adapter": "support", "alias": "champion"}
PROVIDER = {"provider": "openai", "model": "gpt-4o"}
EMBEDDED = {"embedded": "minilm"}


def spec(target: Any = ADAPTER, **variant: Any) -> dict[str, Any]:
    """A route with one variant."""
    return {"variants": [{"name": "champion", "weight": 1, "target": target, **variant}]}


async def refused(answer: httpx2.Response, status: int, param: str | None) -> None:
    """The answer is this refusal."""
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("target", [ADAPTER, PROVIDER, EMBEDDED, {"pool": "main"}])
async def test_the_life_of_a_shared_route(admin: httpx2.AsyncClient, target: dict[str, str]) -> None:
    """PUT makes (201) and replaces (200); what comes back can be sent again; a deleted name can be used again."""
    made = await admin.put("/routes/life", json=spec(target, fallback=PROVIDER))
    assert made.status_code == 201
    assert made.json()["tenant_id"] is None
    again = await admin.put("/routes/life", json=made.json()["spec"] | {"enabled": False})
    assert again.status_code == 200
    assert again.json()["created_at"] == made.json()["created_at"]
    assert again.json()["spec"]["enabled"] is False
    assert (await admin.get("/routes/life")).json() == again.json()
    assert again.json() in (await admin.get("/routes")).json()["data"]
    assert (await admin.delete("/routes/life")).status_code == 204
    await refused(await admin.get("/routes/life"), 404, "route")
    await refused(await admin.delete("/routes/life"), 404, "route")
    assert (await admin.put("/routes/life", json=spec())).status_code == 201
    assert (await admin.delete("/routes/life")).status_code == 204


@pytest.mark.parametrize("name", ["gpt-4o", "openai/gpt-4o", "a/b/c", "ft:gpt-4o:acme::x1", "v1.2_b@c"])
async def test_names_with_slashes_and_colons(admin: httpx2.AsyncClient, tenant: str, name: str) -> None:
    """A model's name is a path's tail, also with `/aliases` or a tenant before it."""
    for path in (f"/routes/{quote(name)}", f"/tenants/{tenant}/routes/{quote(name)}"):
        assert (await admin.put(path, json=spec())).status_code == 201
        assert (await admin.get(path)).json()["name"] == name
        assert (await admin.delete(path)).status_code == 204


@pytest.mark.parametrize("name", ["a//b", "a/", "-a", ".a", "a/.b", "a%20b", "a%00b", "n" * 201, "%F0%9F%A6%86"])
async def test_hostile_names_are_refused(admin: httpx2.AsyncClient, name: str) -> None:
    """A name of another form is 400 and names the field."""
    await refused(await admin.put(f"/routes/{name}", json=spec()), 400, "name")


async def test_scopes_are_apart(admin: httpx2.AsyncClient, tenant: str) -> None:
    """The shared route, one tenant's and another's of the same name are three, each seen in its own scope only."""
    other = f"{tenant}-other"
    await admin.post("/tenants", json={"id": other})
    await admin.put(f"/routes/{tenant}", json=spec(PROVIDER))
    await admin.put(f"/tenants/{tenant}/routes/{tenant}", json=spec(ADAPTER))
    own = (await admin.get(f"/tenants/{tenant}/routes")).json()["data"]
    assert [(route["tenant_id"], route["spec"]["variants"][0]["target"]["pool"]) for route in own] == [(tenant, "main")]
    await refused(await admin.get(f"/tenants/{other}/routes/{tenant}"), 404, "route")
    await refused(await admin.delete(f"/tenants/{other}/routes/{tenant}"), 404, "route")
    assert (await admin.delete(f"/tenants/{tenant}/routes/{tenant}")).status_code == 204
    assert (await admin.get(f"/routes/{tenant}")).status_code == 200
    await refused(await admin.put("/tenants/absent/routes/x", json=spec()), 404, "tenant")
    await refused(await admin.put("/tenants/*/routes/x", json=spec()), 400, "tenant_id")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "variants"),
        ({"variants": []}, "variants"),
        (spec(weight=-1), "variants[0].weight"),
        (spec(weight=0), None),
        (spec(name="Bad Name"), "variants[0].name"),
        (spec(color="red"), "variants[0].color"),
        (spec({}), "variants[0].target"),
        (spec({**ADAPTER, **PROVIDER}), "variants[0].target"),
        (spec({"provider": "openai"}), "variants[0].target"),
        (spec({**PROVIDER, "adapter": "support"}), "variants[0].target.adapter"),
        (spec({**EMBEDDED, "alias": "candidate"}), "variants[0].target.adapter"),
        (spec({"pool": "absent"}), "variants[0].target.pool"),
        (spec({"pool": "unpriced", "adapter": "support"}), "variants[0].target.pool"),
        (spec({"provider": "absent", "model": "m"}), "variants[0].target.provider"),
        (spec({"provider": "openai", "model": "unpriced"}), "variants[0].target.model"),
        (spec({"embedded": "bert"}), "variants[0].target.embedded"),
        (spec({"pool": "main", "adapter": "../x"}), "variants[0].target.adapter"),
        (spec(fallback={"pool": "absent"}), "variants[0].fallback.pool"),
        ({**spec(), "cache": {"threshold": 2}}, "cache.threshold"),
        ({**spec(), "owner": "me"}, "owner"),
        ({"variants": [*spec()["variants"], *spec()["variants"]]}, None),
    ],
)
async def test_what_cannot_be_served_is_refused(
    admin: httpx2.AsyncClient, body: dict[str, Any], param: str | None
) -> None:
    """Unknown pools, providers, models without a price and wrong shapes are 400 with the field; nothing is stored."""
    await refused(await admin.put("/routes/refused", json=body), 400, param)
    assert (await admin.get("/routes/refused")).status_code == 404
