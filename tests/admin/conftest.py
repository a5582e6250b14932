"""The admin API on both databases. Tests share one database of each kind and make tenants of their own."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.storage.database import database
from tests.support.admin_app import application, client, services
from tests.support.postgres import new_database

_numbers = itertools.count()


@pytest.fixture(scope="session", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database of each kind."""
    if request.param == "postgresql":
        return new_database(request.getfixturevalue("postgres_server"))
    return f"sqlite:///{tmp_path_factory.mktemp('sql') / 'admin.sqlite3'}"


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine on the shared database."""
    async with database(database_url) as opened:
        yield opened


@pytest.fixture
async def admin(engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """An administrator."""
    async with client(application(services(engine, tmp_path / "artifacts"))) as opened:
        yield opened


@pytest.fixture
async def tenant(admin: httpx2.AsyncClient) -> str:
    """A tenant of the test's own."""
    name = f"t{next(_numbers)}"
    answer = await admin.post("/tenants", json={"id": name})
    assert answer.status_code == 201, answer.text
    return name
