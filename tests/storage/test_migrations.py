"""The migrations make exactly the declared tables, on both databases, once, however many start at once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from app.storage.database import UnknownSchema, database, migrate
from app.storage.tables import metadata, policy_revision
from tests.support.postgres import new_database

WAIT = 60


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


async def test_a_schema_of_a_newer_version_is_served_as_it_is(empty_database: str) -> None:
    """A gateway of the version before starts after the migration: what was added stays, what it needs is there."""
    await _change(
        empty_database, "UPDATE alembic_version SET version_num = '9999'", "ALTER TABLE tenants ADD COLUMN new TEXT"
    )
    async with database(empty_database) as engine, engine.connect() as connection:
        assert (await connection.execute(select(policy_revision.c.revision))).all() == [(0,)]
        assert (await connection.execute(text("SELECT version_num FROM alembic_version"))).all() == [("9999",)]
        assert (await connection.execute(text("SELECT new FROM tenants"))).all() == []


async def test_an_unknown_schema_that_lacks_what_is_needed_is_refused(empty_database: str) -> None:
    """A version too old for the schema, or another application's database: the first missing column is named."""
    await _change(empty_database, "UPDATE alembic_version SET version_num = 'other'", "DROP TABLE cold_starts")
    with pytest.raises(UnknownSchema, match=r"DATABASE_URL: .* revision other .* \(cold_starts\."):
        async with database(empty_database):
            pass


async def _change(url: str, *statements: str) -> None:
    """Do this to a database that this version has migrated."""
    async with database(url) as engine, engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


def test_migrating_a_newer_schema_succeeds_and_says_so(empty_database: str, tmp_path: Path) -> None:
    """`tunegate migrate` of the version before leaves with 0, and a warning names the revision."""
    asyncio.run(_change(empty_database, "UPDATE alembic_version SET version_num = '9999'"))
    config = tmp_path / "tunegate.yaml"
    config.write_text(f"data_folder: {tmp_path / 'data'}\ndatabase_url: {empty_database}\n", encoding="utf-8")
    command = [sys.executable, "-m", "app.cli", "migrate", "--config", str(config)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "schema_is_newer" in line]
    assert "warning" in line
    assert "9999" in line


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
