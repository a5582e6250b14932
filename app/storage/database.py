"""The SQL engine for SQLite and PostgreSQL, and bringing its schema up to date.

Several processes may start at once on an empty database: one migrates, the others wait for a lock of the database's own
kind and find the work done. A schema that a newer version made is served as it is: its changes never take away what the
version before needs, so gateways of that version start during a roll-out and after it is taken back.
"""

from __future__ import annotations

import fcntl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, inspect, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.storage.tables import metadata

DRIVERS = {"postgres": "postgresql+asyncpg", "postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
MIGRATION_LOCK = 7_486_383_261  # any number of our own; PostgreSQL's advisory locks are numbers
BUSY_MS = 10_000

_logger = structlog.get_logger()


class UnknownSchema(Exception):
    """The database has a revision that this version does not know, and lacks tables or columns that it needs."""


@asynccontextmanager
async def database(url: str) -> AsyncIterator[AsyncEngine]:
    """An engine for `postgresql://…` or `sqlite:///…`, migrated to the newest schema; raises what `migrate` raises."""
    address = _address(url)
    engine = create_async_engine(address, **_pool(address))
    if address.get_backend_name() == "sqlite":
        event.listen(engine.sync_engine, "connect", _sqlite)
    try:
        await migrate(engine)
        yield engine
    finally:
        await engine.dispose()


async def migrate(engine: AsyncEngine) -> None:
    """Upgrade to the newest schema; safe when many do it at once.

    A schema with a newer revision stays as it is, with a warning; raises UnknownSchema where it lacks what we need.
    """
    async with engine.connect() as connection:
        await connection.run_sync(_locked_upgrade)
        await connection.commit()


def _address(url: str) -> URL:
    address = make_url(url)
    backend = address.drivername.split("+")[0]
    if backend not in DRIVERS:
        raise ValueError(f"DATABASE_URL: expected postgresql:// or sqlite:///, not {backend}://")
    return address.set(drivername=DRIVERS[backend])


def _pool(address: URL) -> dict[str, Any]:
    if address.get_backend_name() == "sqlite":
        return {}
    return {"pool_size": 5, "max_overflow": 5, "pool_pre_ping": True, "connect_args": {"timeout": 5}}


def _sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", f"busy_timeout={BUSY_MS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _locked_upgrade(connection: Connection) -> None:
    with _lock(connection), as_file(files("app.storage") / "migrations") as folder:
        config = Config()
        config.set_main_option("script_location", str(folder))
        config.attributes["connection"] = connection
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        unknown = set(MigrationContext.configure(connection).get_current_heads()) - known
        if unknown:
            _serve_newer(connection, ", ".join(sorted(unknown)))
        else:
            command.upgrade(config, "head")


def _serve_newer(connection: Connection, revision: str) -> None:
    tables = inspect(connection).get_multi_columns().items()
    found = {f"{table}.{column['name']}" for (_, table), columns in tables for column in columns}
    needed = {f"{table.name}.{column.name}" for table in metadata.tables.values() for column in table.columns}
    if missing := sorted(needed - found):
        raise UnknownSchema(
            f"DATABASE_URL: this version does not know revision {revision} of the schema, and misses {len(missing)} "
            f"columns in it ({missing[0]} first); run a newer version, or name a database of Tunegate's own"
        )
    _logger.warning("schema_is_newer", revision=revision, then="it has all that this version needs and stays as it is")


@contextmanager
def _lock(connection: Connection) -> Iterator[None]:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        yield  # released when the migration's transaction ends
        return
    path = connection.engine.url.database
    if path is None or path == ":memory:":
        yield
        return
    with Path(f"{path}.lock").open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
        connection.commit()
