"""What gateways see of an administrator's changes: every one of them, in order, on both databases."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.api_keys import Authenticator, digest
from app.errors import Conflict, NotFound, Unauthenticated
from app.storage.administration import keys, teams, tenants
from app.storage.administration.change import changing
from app.storage.administration.keys import Key
from app.storage.administration.teams import Team
from app.storage.administration.tenants import Tenant
from app.storage.database import database
from app.storage.policy import PolicyReader
from app.types import AccountKind, Limits, Operation
from tests.admin.test_adapters import source
from tests.admin.test_routes import spec
from tests.support.admin_app import application, client, services


@pytest.fixture
async def reader(engine: AsyncEngine) -> PolicyReader:
    """A gateway's policy that has read what was there."""
    made = PolicyReader(engine)
    await made.refresh()
    return made


async def make_key(admin: httpx2.AsyncClient, tenant: str, **fields: object) -> tuple[str, bytes]:
    """Id and digest of a new key."""
    made = (await admin.post(f"/tenants/{tenant}/keys", json=fields)).json()
    return made["id"], digest(made["secret"].encode())


async def test_the_reader_sees_every_change(admin: httpx2.AsyncClient, tenant: str, reader: PolicyReader) -> None:
    """Keys with their limits, routes and aliases: made, changed and taken away, each after one refresh."""
    await admin.post(f"/tenants/{tenant}/teams", json={"id": "red", "limits": {"tokens_per_day": 5}})
    key_id, key = await make_key(admin, tenant, team_id="red", routes=["support"], operations=["chat"])
    await admin.put(f"/tenants/{tenant}/routes/support", json=spec())
    version = (
        await admin.post(f"/tenants/{tenant}/adapters", json={"name": "support", "path": source(), "alias": "champion"})
    ).json()["id"]
    await reader.refresh()
    policy = reader.current()
    record = policy.key(key)
    assert record is not None
    assert record.principal.operations == {Operation.CHAT}
    assert record.principal.routes == frozenset({"support"})
    assert [account.kind for account in record.principal.accounts] == [
        AccountKind.KEY,
        AccountKind.TEAM,
        AccountKind.TENANT,
    ]
    assert record.principal.accounts[1].limits.tokens_per_day == 5
    found = policy.adapter(tenant, "support", "champion")
    assert found is not None
    assert found.id == version
    route = policy.route(tenant, "support")
    assert route is not None
    assert route.tenant_id == tenant

    await admin.patch(f"/tenants/{tenant}", json={"limits": {"requests_per_minute": 9}})
    await admin.patch(f"/tenants/{tenant}/teams/red", json={"limits": {"tokens_per_day": 6}})
    await admin.patch(f"/tenants/{tenant}/keys/{key_id}", json={"limits": {"concurrent_requests": 2}})
    await admin.delete(f"/tenants/{tenant}/routes/support")
    await admin.delete(f"/tenants/{tenant}/adapters/support/aliases/champion")
    await reader.refresh()
    record = policy.key(key)
    assert record is not None
    by_kind = {account.kind: account.limits for account in record.principal.accounts}
    assert by_kind == {
        AccountKind.KEY: Limits(concurrent_requests=2),
        AccountKind.TEAM: Limits(tokens_per_day=6),
        AccountKind.TENANT: Limits(requests_per_minute=9),
    }
    assert policy.route(tenant, "support") is None
    assert policy.adapter(tenant, "support", "champion") is None

    await admin.post(f"/tenants/{tenant}/keys/{key_id}/revoke")
    await reader.refresh()
    record = policy.key(key)
    assert record is not None
    assert record.revoked


async def test_deleting_a_tenant_ends_its_keys_and_all_that_is_its_own(
    admin: httpx2.AsyncClient, tenant: str, reader: PolicyReader
) -> None:
    """One change later its keys are refused as revoked, and its routes and adapters are gone."""
    made = (await admin.post(f"/tenants/{tenant}/keys", json={})).json()
    await admin.put(f"/tenants/{tenant}/routes/support", json=spec())
    await admin.post(f"/tenants/{tenant}/adapters", json={"name": "support", "path": source(), "alias": "champion"})

    async def newer() -> bool:
        await reader.refresh()
        return True

    auth = Authenticator(reader, newer=newer)
    headers = {b"authorization": f"Bearer {made['secret']}".encode()}
    assert (await auth.principal(headers)).tenant_id == tenant
    await admin.delete(f"/tenants/{tenant}")
    await reader.refresh()
    with pytest.raises(Unauthenticated):
        await auth.principal(headers)
    assert reader.current().route(tenant, "support") is None
    assert reader.current().adapter(tenant, "support", "champion") is None
    assert tenant in reader.tenant_ids()  # its ledger may still hold something


async def test_concurrent_changes_lose_no_revision(database_url: str) -> None:
    """Fifty changes at once through three engines while a reader polls: fifty revisions in a row, and none unseen."""
    numbers = range(50)
    async with database(database_url) as first, database(database_url) as second, database(database_url) as third:
        reader = PolicyReader(third)
        await reader.refresh()
        start = reader.revision
        seen: list[int] = []

        async def change(number: int) -> int:
            async with changing((first, second)[number % 2]) as change:
                await tenants.create(change, Tenant(f"race{number}", None, Limits()))
                return change.revision

        async def poll() -> None:
            while reader.revision < start + len(numbers):
                await reader.refresh()
                seen.append(reader.revision)
                await asyncio.sleep(0)

        polling = asyncio.create_task(poll())
        revisions = await asyncio.gather(*(change(number) for number in numbers))
        async with asyncio.timeout(30):
            await polling
    assert sorted(revisions) == [start + number + 1 for number in numbers]
    assert seen == sorted(seen)
    assert {f"race{number}" for number in numbers} <= set(reader.tenant_ids())


async def test_one_name_asked_for_at_once_is_given_once(engine: AsyncEngine) -> None:
    """Of ten that make the same tenant at once one succeeds and nine meet a conflict, none a broken database."""

    async def create() -> bool:
        try:
            async with changing(engine) as change:
                await tenants.create(change, Tenant("same", None, Limits()))
        except Conflict:
            return False
        return True

    assert sum(await asyncio.gather(*(create() for _ in range(10)))) == 1


async def test_a_refused_change_takes_no_revision(engine: AsyncEngine, reader: PolicyReader) -> None:
    """What was rolled back left no trace."""
    with pytest.raises(NotFound):
        async with changing(engine) as change:
            await tenants.create(change, Tenant("ghost", None, Limits()))
            await tenants.delete(change, "absent")
    before = reader.revision
    await reader.refresh()
    assert reader.revision == before
    assert "ghost" not in reader.tenant_ids()


async def test_every_committed_change_is_announced_and_no_refused_one(engine: AsyncEngine, tmp_path: Path) -> None:
    """`changed` is awaited once after each commit; a gateway that cannot be told does not fail the change."""
    told: list[int] = []

    async def changed() -> None:
        told.append(1)
        raise OSError("the database went away after the commit")

    async with client(application(services(engine, tmp_path, changed=changed))) as admin:
        assert (await admin.post("/tenants", json={"id": "told"})).status_code == 201
        assert (await admin.patch("/tenants/told", json={"name": "x"})).status_code == 200
        assert (await admin.post("/tenants", json={"id": "told"})).status_code == 409
        assert (await admin.get("/tenants/told")).status_code == 200
        assert len(told) == 2


async def test_a_key_is_never_seen_before_the_limits_of_its_team(database_url: str) -> None:
    """A team and its key that are committed in the middle of a refresh come both at once, with the next one."""
    async with database(database_url) as writing, changing(writing) as change:
        await tenants.create(change, Tenant("instant", None, Limits()))

    async def write() -> None:
        async with database(database_url) as writing, changing(writing) as change:
            await teams.create(change, Team("instant", "red", None, Limits(tokens_per_day=1)))
            await keys.create(change, a_key("instant", "red"))

    async with database(database_url) as watching:
        reader = PolicyReader(watching)
        await reader.refresh()
        async with changing(watching) as change:
            await tenants.edit(change, "instant", lambda tenant: replace(tenant, name="changed"))
        interrupted: list[str] = []

        @event.listens_for(watching.sync_engine, "before_cursor_execute")
        def interrupt(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if not interrupted and "FROM keys" in statement:
                interrupted.append(statement)
                writer = threading.Thread(target=asyncio.run, args=(write(),))
                writer.start()
                writer.join()

        await reader.refresh()
        assert interrupted
        assert reader.current().key(a_key("instant", "red").digest) is None
        await reader.refresh()
        found = reader.current().key(a_key("instant", "red").digest)
    assert found is not None
    assert found.principal.accounts[1].limits.tokens_per_day == 1


def a_key(tenant_id: str, team_id: str) -> Key:
    """A key of a team."""
    secret = f"{tenant_id}/{team_id}".encode()
    return Key(
        "key_instant", tenant_id, team_id, None, "tg-", frozenset(Operation), None, Limits(), digest=digest(secret)
    )


async def test_semantic_caches_are_listed_by_tenant_and_route(
    admin: httpx2.AsyncClient, tenant: str, reader: PolicyReader
) -> None:
    """Shared ones for every tenant, a tenant's own in place of the shared one of its name; of one tenant or of all."""
    semantic = {"cache": {"exact": True, "semantic": True}}
    other = f"{tenant}-2"
    await admin.post("/tenants", json={"id": other})
    gone = f"{tenant}-3"
    await admin.post("/tenants", json={"id": gone})
    await admin.delete(f"/tenants/{gone}")
    shared, hidden, own = (f"{name}-{tenant}" for name in ("b-shared", "a-hidden", "c-own"))
    for name in (shared, hidden):
        await admin.put(f"/routes/{name}", json=spec() | semantic)
    await admin.put(f"/tenants/{tenant}/routes/{hidden}", json=spec())
    await admin.put(f"/tenants/{tenant}/routes/{own}", json=spec() | semantic)
    await reader.refresh()
    policy = reader.current()

    def listed(tenant_id: str | None) -> list[tuple[str, str]]:
        found = [(place, route.name) for place, route in policy.cached_by_meaning(tenant_id)]
        return [
            (place, name) for place, name in found if place in (tenant, other, gone) and name.endswith(f"-{tenant}")
        ]

    mine, others = [(tenant, shared), (tenant, own)], [(other, hidden), (other, shared)]
    assert (listed(tenant), listed(other), listed(gone)) == (mine, others, [])
    assert listed(None) == [*mine, *others]
