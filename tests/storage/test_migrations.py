"""The migrations make exactly the declared tables, on both databases, once, however many start at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, select
from sqlalchemy.ext.asyncio import create_async_engine

from app.storage.database import database, migrate
from app.storage.tables import metadata, policy_revision
from tests.support.postgres import new_database


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "postgresql":
        return new_database(request.getfixturevalue("postgres_server"))
    return f"sqlite:///{tmp_path / 'empty.sqlite3'}"


def differences(connection: Connection) -> list[object]:
    """What alembic would still change."""
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return list(compare_metadata(context, metadata))


async def test_the_migrated_schema_is_the_declared_one(empty_database: str) -> None:
    """`alembic check`: nothing is left to change, and there is the one row that counts revisions."""
    async with database(empty_database) as engine, engine.connect() as connection:
        assert await connection.run_sync(differences) == []
        assert (await connection.execute(select(policy_revision.c.revision))).all() == [(0,)]


async def test_many_may_start_at_once_on_an_empty_database(empty_database: str) -> None:
    """Six gateways migrate at the same time: all succeed, the counter is there once."""

    async def start() -> list[object]:
        async with database(empty_database) as engine, engine.connect() as connection:
            return list((await connection.execute(select(policy_revision))).all())

    async with asyncio.timeout(60):
        rows = await asyncio.gather(*(asyncio.to_thread(asyncio.run, start()) for _ in range(6)))
    assert rows == [[(1, 0)]] * 6


async def test_migrating_again_changes_nothing(empty_database: str) -> None:
    """A restart finds its work done."""
    async with database(empty_database) as engine:
        await migrate(engine)
        async with engine.connect() as connection:
            assert await connection.run_sync(differences) == []


async def test_an_unknown_kind_of_database_is_refused_by_name() -> None:
    """The setting and what was expected are in the message, the password is not."""
    with pytest.raises(ValueError, match="DATABASE_URL: expected postgresql:// or sqlite:///") as caught:
        async with database("mysql://user:hunter2@db/x"):
            pass
    assert "hunter2" not in str(caught.value)


async def test_a_memory_database_needs_no_lock() -> None:
    """SQLite in memory has no file to lock."""
    engine = create_async_engine("sqlite+aiosqlite:///:memory:")
    await migrate(engine)
    await engine.dispose()
