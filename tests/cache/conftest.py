"""What the cache's tests share: a real Redis and the real embedder."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.cache.cache import AnswerCache, CacheConfig
from app.cache.embedder import MiniLM
from app.storage.redis import RedisStore


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    """A store on a real, empty Redis, patient enough for a busy machine."""
    async with RedisStore.connect(redis_url, operation_timeout_seconds=5) as opened:
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


@pytest.fixture
def make_cache(store: RedisStore, minilm: MiniLM) -> Callable[..., AnswerCache]:
    """Caches that share one Redis, as replicas do."""

    def make(**fields: Any) -> AnswerCache:
        return AnswerCache(store, minilm, CacheConfig(**fields))

    return make
