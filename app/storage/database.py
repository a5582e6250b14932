"""The SQL engine for SQLite and PostgreSQL, and bringing its schema up to date.

Several processes may start at once on an empty database: one migrates, the others wait for a lock of the database's own
kind and find the work done.
"""

from __future__ import annotations

import fcntl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

DRIVERS = {"postgres": "postgresql+asyncpg", "postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
MIGRATION_LOCK = 7_486_383_261  # any number of our own; PostgreSQL's advisory locks are numbers
BUSY_MS = 10_000


@asynccontextmanager
async def database(url: str) -> AsyncIterator[AsyncEngine]:
    """An engine for `postgresql://…` or `sqlite:///…`, migrated to the newest schema."""
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
    """Upgrade to the newest schema; safe when many do it at once."""
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
        command.upgrade(config, "head")


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
