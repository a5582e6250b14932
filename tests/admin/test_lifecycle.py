"""The life of adapter versions over the admin API: states, compare-and-set, rollback, lineage, signatures, bases."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy.ext.asyncio import AsyncEngine

from app.storage.artifacts import content_hash
from app.storage.base_shapes import BaseShapes
from app.storage.janitor import Janitor
from app.storage.policy import PolicyReader
from app.storage.signatures import PREFIX, Signers
from tests.support.admin_app import application, client, services
from tests.support.pools import SEEN

ENGINE = Path(str(files("app.engine") / "assets"))


async def _add(admin: httpx2.AsyncClient, tenant: str, source: str, **fields: Any) -> dict[str, Any]:
    body = {"name": "support", "path": str(ENGINE / "adapters" / source), **fields}
    answer = await admin.post(f"/tenants/{tenant}/adapters", json=body)
    assert answer.status_code in (200, 201), answer.text
    made: dict[str, Any] = answer.json()
    return made


async def _state(admin: httpx2.AsyncClient, tenant: str, version: str) -> str:
    answer = await admin.get(f"/tenants/{tenant}/adapters/support/versions/{version}")
    return str(answer.json()["state"])


async def _move(admin: httpx2.AsyncClient, tenant: str, version: str, state: str) -> int:
    path = f"/tenants/{tenant}/adapters/support/versions/{version}/state"
    return (await admin.put(path, json={"state": state, "reason": "test"})).status_code


def _there(path: str | Path) -> bool:
    return Path(path).exists()


async def _point(admin: httpx2.AsyncClient, tenant: str, version: str, **fields: Any) -> httpx2.Response:
    path = f"/tenants/{tenant}/adapters/support/aliases/champion"
    return await admin.put(path, json={"version": version, **fields})


async def test_a_version_lives_from_pending_to_retired(admin: httpx2.AsyncClient, tenant: str) -> None:
    """Only steps that the picture shows are taken; everything else is 409 and changes nothing."""
    version = (await _add(admin, tenant, "acme", pending=True))["id"]
    assert (await _point(admin, tenant, version)).status_code == 409
    for state, status in (("retired", 409), ("draining", 409), ("ready", 200), ("pending", 409), ("retired", 409)):
        assert await _move(admin, tenant, version, state) == status, state
    assert (await _point(admin, tenant, version)).status_code == 200
    for state in ("draining", "retired", "failed"):
        assert await _move(admin, tenant, version, state) == 409, "an alias means it"
    await admin.delete(f"/tenants/{tenant}/adapters/support/aliases/champion")
    assert await _state(admin, tenant, version) == "draining"
    assert await _move(admin, tenant, version, "retired") == 200
    for state in ("ready", "draining", "failed", "pending"):
        assert await _move(admin, tenant, version, state) == 409
    assert (await _point(admin, tenant, version)).status_code == 409


async def test_a_version_that_loses_its_alias_drains_and_may_come_back(admin: httpx2.AsyncClient, tenant: str) -> None:
    """The old version drains at the flip; a rollback makes it ready again, and a second one goes forward."""
    first = (await _add(admin, tenant, "acme", alias="champion"))["id"]
    second = (await _add(admin, tenant, "bloom"))["id"]
    back = f"/tenants/{tenant}/adapters/support/aliases/champion/rollback"
    assert (await admin.post(back)).status_code == 409, "there is no way back yet"
    await _point(admin, tenant, second)
    assert [await _state(admin, tenant, version) for version in (first, second)] == ["draining", "ready"]
    assert (await admin.post(back)).json()["version"] == first
    assert [await _state(admin, tenant, version) for version in (first, second)] == ["ready", "draining"]
    assert (await admin.post(back)).json()["version"] == second


async def test_a_version_with_another_alias_stays_ready(admin: httpx2.AsyncClient, tenant: str) -> None:
    """Only the last alias that goes lets a version drain."""
    first = (await _add(admin, tenant, "acme", alias="champion"))["id"]
    await admin.put(f"/tenants/{tenant}/adapters/support/aliases/candidate", json={"version": first})
    await _point(admin, tenant, (await _add(admin, tenant, "bloom"))["id"])
    assert await _state(admin, tenant, first) == "ready"


async def test_an_alias_moves_only_from_what_was_expected(admin: httpx2.AsyncClient, tenant: str) -> None:
    """Compare-and-set: of many who move from the same version to others, exactly one does."""
    first = (await _add(admin, tenant, "acme"))["id"]
    others = [(await _add(admin, tenant, source))["id"] for source in ("bloom", "corvid")]
    assert (await _point(admin, tenant, first, expected=others[0])).status_code == 409
    assert (await _point(admin, tenant, first, expected=None)).status_code == 200
    assert (await _point(admin, tenant, first, expected=None)).status_code == 409
    racing = await asyncio.gather(*(_point(admin, tenant, others[n % 2], expected=first) for n in range(10)))
    assert sorted(answer.status_code for answer in racing) == [200, *[409] * 9]


async def test_lineage_is_kept_and_bounded(admin: httpx2.AsyncClient, tenant: str) -> None:
    """What a version comes from is shown with it; a novel is refused, naming the field."""
    lineage = {"data_sha256": "ab" * 32, "base_revision": "r1", "code": "3f2a", "metrics": {"win_rate": 0.61}}
    made = await _add(admin, tenant, "acme", lineage=lineage)
    assert made["lineage"] == lineage
    body = {"name": "support", "path": made["path"], "lineage": {"x": "y" * 20_000}}
    refused = await admin.post(f"/tenants/{tenant}/adapters", json=body)
    assert refused.status_code == 400
    assert "lineage" in refused.json()["error"]["message"]
    body = {"name": "support", "path": made["path"], "lineage": {"next_tokens": {"Hello": ["x"]}}}
    refused = await admin.post(f"/tenants/{tenant}/adapters", json=body)
    assert refused.status_code == 400
    assert "next_tokens" in refused.json()["error"]["message"]


async def test_what_the_maker_says_that_it_answers_reaches_the_gateways(
    engine: AsyncEngine, admin: httpx2.AsyncClient, tenant: str
) -> None:
    """The reference travels with the version."""
    said = {"Hello": {"x": -0.5, "a": -1.5}}
    made = await _add(admin, tenant, "acme", alias="champion", lineage={"next_tokens": said})
    reader = PolicyReader(engine)
    await reader.refresh()
    version = (reader.served() or {})[made["id"]]
    assert version.reference == (("Hello", (("a", -1.5), ("x", -0.5))),)


async def test_signed_adapters_name_their_signer_and_others_are_refused(
    engine: AsyncEngine, tenant: str, tmp_path: Path
) -> None:
    """A trusted key's signature over the content hash passes; none, another key's or another file's does not."""
    key, stranger = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    made = services(engine, tmp_path / "signed", signers=Signers({"release": public}, required=True))
    digest = bytes.fromhex(content_hash(ENGINE / "adapters" / "acme"))
    body = {"name": "support", "path": str(ENGINE / "adapters" / "acme")}
    async with client(application(made)) as admin:
        path = f"/tenants/{tenant}/adapters"
        for wrong in (None, "xy", "00" * 64, stranger.sign(PREFIX + digest).hex(), key.sign(digest).hex()):
            refused = await admin.post(path, json={**body, "signature": wrong})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "signature")
        signed = await admin.post(path, json={**body, "signature": key.sign(PREFIX + digest).hex()})
        assert (signed.status_code, signed.json()["signed_by"]) == (201, "release")


async def test_adapters_must_fit_their_base(engine: AsyncEngine, tenant: str, tmp_path: Path) -> None:
    """With known bases, another base's name or another size is refused before any server sees it."""
    config = ENGINE / "base" / "config.json"
    small = json.loads(config.read_text()) | {"hidden_size": 96}
    (tmp_path / "small.json").write_text(json.dumps(small))
    body = {"name": "support", "path": str(ENGINE / "adapters" / "acme")}
    for bases, message in (
        ({"tunegate-tiny": BaseShapes.read(config)}, None),
        ({"tunegate-tiny": BaseShapes.read(tmp_path / "small.json")}, "the base model has"),
        ({"another": BaseShapes.read(config)}, "one of the served base models: another"),
    ):
        async with client(application(services(engine, tmp_path / "bases", bases=bases))) as admin:
            answer = await admin.post(f"/tenants/{tenant}/adapters", json=body)
            assert answer.is_success if message is None else message in answer.json()["error"]["message"], answer.text


async def test_files_go_only_past_the_horizon(engine: AsyncEngine, admin: httpx2.AsyncClient, tenant: str) -> None:
    """A retired version keeps its files until no server can know its name; the same bytes may then come back."""
    made = await _add(admin, tenant, "acme", alias="champion")
    folder = Path(made["path"])
    now = [made["created_at"]]
    janitor = Janitor(engine, folder.parent.parent, horizon_seconds=100, clock=lambda: now[0])
    now[0] += 10_000
    assert made["id"] not in await janitor.sweep()
    await admin.delete(f"/tenants/{tenant}/adapters/support/aliases/champion")
    assert await _move(admin, tenant, made["id"], "retired") == 200
    now[0] = made["created_at"] + 50
    assert made["id"] not in await janitor.sweep()
    assert _there(folder)
    now[0] += 1_000
    assert made["id"] in await janitor.sweep()
    assert not _there(folder)
    assert made["id"] not in await janitor.sweep()
    again = await _add(admin, tenant, "acme", alias="champion")
    assert (again["id"], again["state"], _there(again["path"])) == (made["id"], "ready", True)


async def test_gateways_see_exactly_what_aliases_mean(
    engine: AsyncEngine, admin: httpx2.AsyncClient, tenant: str
) -> None:
    """The versions that may be served are those that an alias means, in every gateway's memory."""
    first = (await _add(admin, tenant, "acme", alias="champion"))["id"]
    second = (await _add(admin, tenant, "bloom"))["id"]
    reader = PolicyReader(engine)
    assert reader.served() is None, "nothing is known yet, so nothing may be concluded"
    await reader.refresh()
    served = reader.served() or {}
    assert first in served
    assert second not in served
    await _point(admin, tenant, second)
    await reader.refresh()
    served = reader.served() or {}
    assert second in served
    assert first not in served


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'{"hidden_size": "x"}'])
def test_a_base_without_shapes_is_a_configuration_error(tmp_path: Path, body: bytes) -> None:
    """A file that is not a model's configuration is named at the start."""
    path = tmp_path / "config.json"
    path.write_bytes(body)
    with pytest.raises(ValueError, match=r"config\.json"):
        BaseShapes.read(path)


async def test_the_rule_for_cold_starts_reaches_the_gateways(
    engine: AsyncEngine, admin: httpx2.AsyncClient, tenant: str
) -> None:
    """Set per tenant; the version before the last flip may then answer while it can be called, and stays loaded."""
    path = f"/tenants/{tenant}/cold-start"
    assert (await admin.get(path)).json() == {"wait_ms": None, "previous": False}
    assert (await admin.put(path, json={"wait_ms": 0})).status_code == 400
    first = (await _add(admin, tenant, "acme", alias="champion"))["id"]
    await _point(admin, tenant, (await _add(admin, tenant, "bloom"))["id"])
    reader = PolicyReader(engine)
    await reader.refresh()
    assert first not in (reader.served() or {})
    rule = {"wait_ms": 1500, "previous": True}
    assert (await admin.put(path, json=rule)).json() == rule
    await reader.refresh()
    policy = reader.current()
    assert (policy.cold_start(tenant).wait_ms, policy.cold_start(tenant).previous) == (1500, True)
    before = policy.previous_adapter(tenant, "support", "champion")
    assert before is not None
    assert before.id == first
    assert first in (reader.served() or {})
    assert await _move(admin, tenant, first, "failed") == 200
    await reader.refresh()
    assert policy.previous_adapter(tenant, "support", "champion") is None
    assert policy.previous_adapter("another", "support", "champion") is None
    assert first not in (reader.served() or {})


async def test_the_state_of_the_pools_is_shown(engine: AsyncEngine, tmp_path: Path) -> None:
    """What placement says of its servers, as JSON; a gateway without pools has none."""
    async with client(application(services(engine, tmp_path, pools=lambda: [SEEN]))) as admin:
        assert (await admin.get("/pools")).json() == {"object": "list", "data": [asdict(SEEN)]}
    async with client(application(services(engine, tmp_path))) as admin:
        assert (await admin.get("/pools")).json() == {"object": "list", "data": []}
