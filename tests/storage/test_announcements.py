"""How a change reaches other gateways: at once over Redis, by polling without it, and never as a flood on SQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.api_keys import Authenticator, new_key
from app.errors import Unauthenticated, Unavailable
from app.storage.administration import tenants
from app.storage.administration.change import changing
from app.storage.administration.tenants import Tenant
from app.storage.announcements import REVISION, Announcements
from app.storage.database import database
from app.storage.policy import PolicyReader
from app.storage.redis import RedisStore
from app.types import Limits
from tests.support.processes import free_port

PATIENCE = 10.0


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """A database."""
    async with database(f"sqlite:///{tmp_path / 'a.sqlite3'}") as opened:
        yield opened


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    """A Redis."""
    async with RedisStore.connect(redis_url, operation_timeout_seconds=2) as opened:
        yield opened


async def gateway(store: RedisStore, engine: AsyncEngine) -> tuple[PolicyReader, Announcements]:
    """What one gateway has of the policy, read once; polling is up to the test."""
    policy = PolicyReader(engine, poll_seconds=3600)
    await policy.refresh()
    return policy, Announcements(store, policy, poll_seconds=3600)


async def make_tenant(engine: AsyncEngine, name: str) -> None:
    """One committed change."""
    async with changing(engine) as change:
        await tenants.create(change, Tenant(name, None, Limits()))


async def test_a_change_here_is_felt_there(store: RedisStore, engine: AsyncEngine) -> None:
    """A gateway that listens and does not poll within the hour reads the change when it is announced."""
    _, here = await gateway(store, engine)
    there, listening = await gateway(store, engine)
    tasks = [asyncio.create_task(there.run()), asyncio.create_task(listening.listen())]
    await make_tenant(engine, "acme")
    async with asyncio.timeout(PATIENCE):
        while "acme" not in there.tenant_ids():
            await here.changed()
            await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_newer_reads_what_was_missed_and_only_then(store: RedisStore, engine: AsyncEngine) -> None:
    """Without news it is False; after a change elsewhere the snapshot is caught up and it is True, once."""
    _, here = await gateway(store, engine)
    there, asking = await gateway(store, engine)
    assert await asking.newer() is False
    await make_tenant(engine, "acme")
    await here.changed()
    assert await asking.newer() is True
    assert "acme" in there.tenant_ids()
    assert await asking.newer() is False


async def test_a_flood_of_unknown_keys_is_not_a_flood_on_sql(store: RedisStore, engine: AsyncEngine) -> None:
    """Five hundred different keys while a revision is announced that SQL never had cost a handful of reads."""
    policy, announcements = await gateway(store, engine)
    await store.command("SET", REVISION, 10**6)
    auth = Authenticator(policy, newer=announcements.newer)
    statements: list[str] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    async def knock() -> None:
        with pytest.raises(Unauthenticated):
            await auth.principal({b"authorization": f"Bearer {new_key().secret}".encode()})

    await asyncio.gather(*(knock() for _ in range(500)))
    assert 0 < len(statements) < 50


async def test_while_sql_is_away_news_is_503(store: RedisStore, engine: AsyncEngine) -> None:
    """Known to be behind and unable to read: neither 401 nor 500."""
    policy, announcements = await gateway(store, engine)
    auth = Authenticator(policy, newer=announcements.newer)
    await store.command("SET", REVISION, policy.revision + 1)

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def broken(*_: Any) -> None:
        raise OSError("the database is away")

    with pytest.raises(Unavailable):
        await auth.principal({b"authorization": f"Bearer {new_key().secret}".encode()})


async def test_while_redis_is_away_a_fresh_snapshot_decides_and_an_old_one_does_not(engine: AsyncEngine) -> None:
    """A snapshot read a moment ago is proof enough; one that is several polls old is not."""
    now = 0.0
    policy = PolicyReader(engine, clock=lambda: now)
    await policy.refresh()
    async with RedisStore.connect(f"redis://127.0.0.1:{free_port()}/0") as away:
        announcements = Announcements(away, policy, poll_seconds=1)
        assert await announcements.newer() is False
        now = 3.5
        with pytest.raises(Unavailable):
            await announcements.newer()


async def test_a_change_that_cannot_be_announced_stands(engine: AsyncEngine) -> None:
    """Without Redis the change is taken over here, and others find it by polling."""
    policy = PolicyReader(engine)
    await policy.refresh()
    await make_tenant(engine, "acme")
    async with RedisStore.connect(f"redis://127.0.0.1:{free_port()}/0") as away:
        await Announcements(away, policy, poll_seconds=1).changed()
    assert "acme" in policy.tenant_ids()
