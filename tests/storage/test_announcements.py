"""How a change reaches other gateways: at once over Redis, by polling without it, and never as a flood on SQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
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
from app.storage.announcements import REVISION, Announcements, announce
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
    policy = PolicyReader(engine, poll_seconds=3600, tell=partial(announce, store))
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


async def test_a_call_is_told_of_what_was_announced_before_it(store: RedisStore, engine: AsyncEngine) -> None:
    """Without news it goes on at once; after a change elsewhere it reads first, once."""
    _, here = await gateway(store, engine)
    there, asking = await gateway(store, engine)
    quiet = asking.ask()
    assert quiet.is_behind(), "not answered yet: that is no proof"
    assert await quiet.missed() is False
    assert quiet.is_behind() is False
    await make_tenant(engine, "acme")
    await here.changed()
    news = asking.ask()
    assert await news.missed() is True
    assert news.is_behind(), "what was decided when it was asked is still too old"
    assert "acme" in there.tenant_ids()
    assert await asking.ask().missed() is False


async def test_whoever_finds_a_change_announces_it_before_deciding_by_it(
    store: RedisStore, engine: AsyncEngine
) -> None:
    """A gateway commits and dies: the one whose poll finds the change tells the others before it shows it."""
    finder, _ = await gateway(store, engine)
    there, asking = await gateway(store, engine)
    await make_tenant(engine, "acme")
    assert await asking.ask().missed() is False, "nobody can have seen it yet"
    await finder.refresh()
    assert await asking.ask().missed() is True
    assert "acme" in there.tenant_ids()


async def test_a_hundred_calls_read_once(store: RedisStore, engine: AsyncEngine) -> None:
    """Calls that learn of the same change at the same time share its reading."""
    _, here = await gateway(store, engine)
    _, asking = await gateway(store, engine)
    await make_tenant(engine, "acme")
    await here.changed()
    statements: list[str] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    assert all(await asyncio.gather(*(asking.ask().missed() for _ in range(100))))
    assert 0 < len(statements) < 50


async def test_what_cannot_be_read_is_waited_for_once(store: RedisStore, engine: AsyncEngine) -> None:
    """While SQL is away the last known policy serves, and only the first call tries; the next change is tried again."""
    policy, announcements = await gateway(store, engine)
    tried: list[str] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def broken(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        tried.append(statement)
        raise OSError("the database is away")

    await announce(store, policy.revision + 1)
    assert await announcements.ask().missed() is False
    once = len(tried)
    assert once > 0
    news = announcements.ask()
    assert await news.missed() is False
    assert news.is_behind() is False
    assert len(tried) == once
    await announce(store, policy.revision + 2)
    assert await announcements.ask().missed() is False
    assert len(tried) > once


async def test_a_read_that_hangs_is_left_to_the_poll(
    store: RedisStore, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A known change that SQL does not give within the time holds one call, then the last known policy serves."""
    monkeypatch.setattr("app.storage.announcements.CATCH_UP_SECONDS", 0.01)
    _, here = await gateway(store, engine)
    there, asking = await gateway(store, engine)
    await make_tenant(engine, "acme")
    await here.changed()
    async with there._refreshing:
        assert await asking.ask().missed() is False
        news = asking.ask()
        assert await news.missed() is False
        assert news.is_behind() is False
    async with asyncio.timeout(PATIENCE):
        while "acme" not in there.tenant_ids():
            await asyncio.sleep(0.01)
    assert await asking.ask().missed() is False


async def test_a_revision_that_sql_does_not_have_is_set_right(store: RedisStore, engine: AsyncEngine) -> None:
    """After SQL was restored from a backup the announced revision is ahead of it: it must not hide what comes."""
    _, here = await gateway(store, engine)
    there, asking = await gateway(store, engine)
    await announce(store, 10**6)
    assert await asking.ask().missed() is False
    assert int(await store.get(REVISION) or 0) == there.revision
    await make_tenant(engine, "acme")
    await here.changed()
    assert await asking.ask().missed() is True
    assert "acme" in there.tenant_ids()


async def test_while_redis_is_away_the_last_known_policy_serves(engine: AsyncEngine) -> None:
    """No Redis, no news: the call goes on, without waiting."""
    policy = PolicyReader(engine)
    await policy.refresh()
    async with RedisStore.connect(f"redis://127.0.0.1:{free_port()}/0") as away:
        news = Announcements(away, policy, poll_seconds=1).ask()
        assert news.is_behind() is False
        assert await news.missed() is False


async def test_a_redis_that_has_lost_the_revision_is_told_again(store: RedisStore, engine: AsyncEngine) -> None:
    """After a reconnection every gateway raises it to its own: a fail-over may have lost the last one."""
    await make_tenant(engine, "acme")
    policy, listening = await gateway(store, engine)
    listener = asyncio.create_task(listening.listen())
    async with asyncio.timeout(PATIENCE):
        while await store.command("PUBSUB", "NUMSUB", "tg:policy") != [b"tg:policy", 1]:
            await asyncio.sleep(0.01)
        await store.command("DEL", REVISION)
        await store.command("CLIENT", "KILL", "TYPE", "pubsub")
        while await store.get(REVISION) is None:
            await asyncio.sleep(0.01)
    assert int(await store.get(REVISION) or 0) == policy.revision
    listener.cancel()
    await asyncio.gather(listener, return_exceptions=True)
