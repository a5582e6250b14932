"""Adapters over the admin API: import, versions, aliases."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx2
import pytest

ASSETS = Path(str(files("app.engine") / "assets" / "adapters"))


def source(name: str = "acme") -> str:
    """The path of a shipped adapter."""
    return str(ASSETS / name)


async def refused(answer: httpx2.Response, status: int, param: str | None) -> None:
    """The answer is this refusal."""
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param


async def test_import_is_idempotent_and_content_addressed(admin: httpx2.AsyncClient, tenant: str) -> None:
    """The same bytes are the same version (200 the second time); other bytes are another one."""
    path = f"/tenants/{tenant}/adapters"
    first = await admin.post(path, json={"name": "support", "path": source(), "alias": "champion"})
    assert first.status_code == 201
    made = first.json()
    assert made["id"] == f"{tenant}--support@{made['sha256'][:12]}"
    assert made["aliases"] == ["champion"]
    assert Path(made["path"]).name == made["id"]
    again = await admin.post(path, json={"name": "support", "path": source()})
    assert (again.status_code, again.json()) == (200, made)
    other = (await admin.post(path, json={"name": "support", "path": source("bloom"), "alias": "candidate"})).json()
    assert other["id"] != made["id"]
    listed = (await admin.get(path)).json()["data"]
    assert listed == sorted([made, other], key=lambda version: version["id"])
    assert (await admin.get(f"{path}/support/versions")).json()["data"] == listed
    assert (await admin.get(f"{path}/sales/versions")).json()["data"] == []
    assert (await admin.get(f"{path}/support/versions/{made['id']}")).json() == made
    await refused(await admin.get(f"{path}/sales/versions/{made['id']}"), 404, "version")


async def test_an_alias_moves_and_goes(admin: httpx2.AsyncClient, tenant: str) -> None:
    """An alias means one version at a time, of its own adapter only, until it is taken away; then it can come back."""
    path = f"/tenants/{tenant}/adapters"
    first = (await admin.post(path, json={"name": "support", "path": source(), "alias": "champion"})).json()["id"]
    second = (await admin.post(path, json={"name": "support", "path": source("bloom")})).json()["id"]
    foreign = (await admin.post(path, json={"name": "sales", "path": source()})).json()["id"]
    champion = f"{path}/support/aliases/champion"
    moved = await admin.put(champion, json={"version": second})
    assert moved.json() == {"name": "support", "alias": "champion", "version": second}
    aliases = {v["id"]: v["aliases"] for v in (await admin.get(path)).json()["data"]}
    assert aliases == {first: [], second: ["champion"], foreign: []}
    await refused(await admin.put(champion, json={"version": foreign}), 404, "version")
    await refused(await admin.put(champion, json={"version": "x"}), 400, "version")
    await refused(await admin.put(champion, json={}), 400, "version")
    assert (await admin.delete(champion)).status_code == 204
    await refused(await admin.delete(champion), 404, "alias")
    assert (await admin.put(champion, json={"version": first})).status_code == 200
    aliases = {v["id"]: v["aliases"] for v in (await admin.get(path)).json()["data"]}
    assert aliases[first] == ["champion"]


async def test_versions_belong_to_their_tenant_only(admin: httpx2.AsyncClient, tenant: str) -> None:
    """Another tenant can neither see nor alias a version, though it may import the same bytes as its own."""
    other = f"{tenant}-other"
    await admin.post("/tenants", json={"id": other})
    mine = (await admin.post(f"/tenants/{tenant}/adapters", json={"name": "support", "path": source()})).json()
    await refused(await admin.get(f"/tenants/{other}/adapters/support/versions/{mine['id']}"), 404, "version")
    alias = f"/tenants/{other}/adapters/support/aliases/champion"
    await refused(await admin.put(alias, json={"version": mine["id"]}), 404, "version")
    theirs = (await admin.post(f"/tenants/{other}/adapters", json={"name": "support", "path": source()})).json()
    assert theirs["id"] != mine["id"]
    assert theirs["sha256"] == mine["sha256"]
    assert theirs["path"] != mine["path"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"path": source()}, "name"),
        ({"name": "support"}, "path"),
        ({"name": "a--b", "path": source()}, "name"),
        ({"name": "../x", "path": source()}, "name"),
        ({"name": "support", "path": ""}, "path"),
        ({"name": "support", "path": "relative/folder"}, "path"),
        ({"name": "support", "path": "/nothing/here"}, "path"),
        ({"name": "support", "path": "/dev/null"}, "path"),
        ({"name": "support", "path": source() + "\x00"}, "path"),
        ({"name": "support", "path": source(), "alias": "No"}, "alias"),
        ({"name": "support", "path": source(), "sha256": "0"}, "sha256"),
        ({"name": "support", "path": source(), "tenant_id": "x"}, "tenant_id"),
    ],
)
async def test_wrong_imports_are_refused(
    admin: httpx2.AsyncClient, tenant: str, body: dict[str, Any], param: str
) -> None:
    """Each is 400 with its field, and nothing is registered."""
    await refused(await admin.post(f"/tenants/{tenant}/adapters", json=body), 400, param)
    assert (await admin.get(f"/tenants/{tenant}/adapters")).json()["data"] == []


async def test_an_import_for_nobody_copies_nothing(admin: httpx2.AsyncClient, tmp_path: Path) -> None:
    """Without the tenant it is 404 before a byte is copied."""
    await refused(await admin.post("/tenants/absent/adapters", json={"name": "a", "path": source()}), 404, "tenant")
    assert not (tmp_path / "artifacts").exists()
