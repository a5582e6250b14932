"""What the cache's tests share: a real Redis and the real embedder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cache.cache import AnswerCache, CacheConfig
from app.cache.embedder import MiniLM
from app.cache.guard import GuardReason
from app.cache.reports import Reports
from app.interfaces import Embedder
from app.storage.database import database
from app.storage.redis import RedisStore


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    """A store on a real, empty Redis, patient enough for a busy machine."""
    async with RedisStore.connect(redis_url, operation_timeout_seconds=5) as opened:
        yield opened


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """A database, where the audit log is."""
    async with database(f"sqlite:///{tmp_path / 'audit.sqlite3'}") as opened:
        yield opened


@pytest.fixture(scope="session")
def minilm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's graph is built, once."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def minilm(minilm_folder: Path) -> Iterator[MiniLM]:
    """The real embedder."""
    with contextlib.closing(MiniLM.load(minilm_folder)) as model:
        yield model


class FakeClock:
    """Seconds since the epoch, moved by hand from now on: Redis, too, dates what it is given."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        """Now."""
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    """The caches' clock."""
    return FakeClock()


class Caches:
    """Gateways that share one Redis, as replicas do, and what they tell of themselves."""

    def __init__(self, store: RedisStore, embedder: Embedder, clock: FakeClock) -> None:
        self.store = store
        self.clock = clock
        self.refusals: list[GuardReason] = []
        self.compared: list[tuple[str, bool]] = []
        self.away: list[tuple[str, str]] = []
        self.draws: list[float] = []
        self._embedder = embedder
        self._made: list[AnswerCache] = []

    def make(self, embedder: Embedder | None = None, *, exact_only: bool = False, **fields: Any) -> AnswerCache:
        """One gateway's cache; nothing is drawn for comparison unless `draws` says so."""
        cache = AnswerCache(
            self.store,
            None if exact_only else embedder or self._embedder,
            CacheConfig(**fields),
            reports=Reports(
                refused=self.refusals.append,
                compared=lambda route, agreed: self.compared.append((route, agreed)),
                away=lambda decision, away: self.away.append((decision, away)),
            ),
            clock=self.clock,
            draw=lambda: self.draws.pop(0) if self.draws else 1.0,
        )
        self._made.append(cache)
        return cache

    async def drain(self) -> None:
        """Wait for what runs in the background."""
        for cache in self._made:
            await cache.drain()


@pytest.fixture
async def caches(store: RedisStore, minilm: MiniLM, clock: FakeClock) -> AsyncIterator[Caches]:
    """Caches on one real Redis with the real embedder."""
    made = Caches(store, minilm, clock)
    yield made
    await made.drain()
