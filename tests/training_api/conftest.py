"""The training API on both databases: one of each kind is shared, tests make tenants and base models of their own."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.storage.database import database
from tests.support.postgres import new_database
from tests.support.training_app import TrainingApp, training_app

_numbers = itertools.count()


@pytest.fixture(scope="session", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database of each kind."""
    if request.param == "postgresql":
        return new_database(request.getfixturevalue("postgres_server"))
    return f"sqlite:///{tmp_path_factory.mktemp('sql') / 'training.sqlite3'}"


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine on the shared database."""
    async with database(database_url) as opened:
        yield opened


@pytest.fixture
async def app(engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[TrainingApp]:
    """An application whose queue is empty: jobs that other tests left are on other base models."""
    made = training_app(engine, tmp_path / "objects", base=f"base-{next(_numbers)}")
    await made.policy.refresh()
    yield made
    await made.close()
