"""The admin API while SQL is away: 503 that says so, never 500, never a half-made change."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from app.storage.administration.change import changing
from app.storage.database import database
from tests.support.admin_app import application, client, services
from tests.support.processes import free_port

CALLS = (
    ("GET", "/tenants", None),
    ("POST", "/tenants", {"id": "a"}),
    ("PATCH", "/tenants/a", {"name": "x"}),
    ("DELETE", "/tenants/a", None),
    ("GET", "/usage", None),
    ("POST", "/tenants/a/adapters", {"name": "a", "path": "/tmp"}),
)


async def test_a_server_that_cannot_be_reached_is_503(tmp_path: Path) -> None:
    """Nothing listens on the port: every call is 503 with Retry-After in the envelope."""
    engine = create_async_engine(f"postgresql+asyncpg://nobody@127.0.0.1:{free_port()}/none")
    async with client(application(services(engine, tmp_path))) as admin:
        for method, path, body in CALLS:
            answer = await admin.request(method, path, json=body)
            assert answer.status_code == 503, (method, path, answer.text)
            assert answer.json()["error"]["code"] == "server_is_overloaded"
            assert answer.headers["retry-after"] == "1"
    await engine.dispose()


async def test_a_locked_database_is_503(tmp_path: Path) -> None:
    """A SQLite file that another process keeps writing to is busy, not broken."""
    async with database(f"sqlite:///{tmp_path / 'busy.sqlite3'}") as engine, engine.connect() as blocker:
        await blocker.execute(text("BEGIN IMMEDIATE"))
        async with engine.connect() as connection:
            await connection.execute(text("PRAGMA busy_timeout=50"))
            await connection.commit()
        async with client(application(services(engine, tmp_path))) as admin:
            answer = await admin.post("/tenants", json={"id": "a"})
        await blocker.rollback()
    assert answer.status_code == 503, answer.text


async def test_a_mistake_in_a_statement_is_not_an_outage(tmp_path: Path) -> None:
    """A defect of ours stays a defect: it is not dressed up as a busy database."""
    async with database(f"sqlite:///{tmp_path / 'a.sqlite3'}") as engine:
        with pytest.raises(Exception, match="UNIQUE"):
            async with changing(engine) as change:
                await change.connection.execute(text("INSERT INTO policy_revision (id, revision) VALUES (1, 1)"))
