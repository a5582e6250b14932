"""SQL of both kinds, and a connected store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.storage.redis import RedisStore
from tests.support.postgres import new_database


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    """A store with a timeout that a busy machine does not reach."""
    async with RedisStore.connect(redis_url, operation_timeout_seconds=10) as connected:
        yield connected


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    return new_database(request.getfixturevalue("postgres_server"))
