"""What the cache does without Redis or its embedder: bypass, or refuse where that is the policy; and that it tells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.cache.cache import AnswerCache, CacheConfig
from app.cache.embedder import MiniLM
from app.cache.reports import Reports
from app.errors import Unavailable
from app.interfaces import EmbedderFailed
from app.storage.redis import RedisStore
from app.types import CacheStatus
from tests.cache.calls import make_answer, make_call, make_choice, make_principal
from tests.cache.conftest import Caches
from tests.support.redis_server import redis_server

ACME = make_principal()
QUESTION = "How do I reset my password?"
PARAPHRASE = "How can I reset my password?"


class Fickle:
    """The real embedder, until it is told to fail."""

    def __init__(self, inner: MiniLM) -> None:
        self.dimensions = inner.dimensions
        self.model = inner.model
        self.fails = False
        self._inner = inner

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed, or not."""
        if self.fails:
            raise EmbedderFailed("told to")
        return await self._inner.embed(texts)


def cache_on(store: RedisStore, told: list[tuple[str, str]], *, refuses: bool = False) -> AnswerCache:
    """An exact cache that tells what it does without."""
    config = CacheConfig(refuses_when_away=refuses)
    return AnswerCache(store, None, config, reports=Reports(away=lambda *what: told.append(what)))


async def test_without_redis_a_call_goes_upstream_and_it_is_told(tmp_path: Path) -> None:
    """Redis was never there, or is killed between the question and the keeping of its answer."""
    told: list[tuple[str, str]] = []
    with redis_server(tmp_path) as server:
        async with RedisStore.connect(server.url, operation_timeout_seconds=5) as store:
            cache, choice = cache_on(store, told), make_choice()
            asked = cache.ask(ACME, make_call(QUESTION), choice)
            assert await asked.answer() is None
            server.kill()
            keep = asked.keep(choice.targets[0])
            assert keep is not None
            await keep(make_answer(), None)
            assert await cache.ask(ACME, make_call(QUESTION), choice).answer() is None
            await cache.drain()
    assert sorted(told) == [("bypassed", "redis"), ("not_kept", "redis")]


async def test_by_the_closed_policy_a_call_of_a_cached_route_is_refused(tmp_path: Path) -> None:
    """With 503; a call that asks for a fresh answer, and one of a route without a cache, are none of its business."""
    told: list[tuple[str, str]] = []
    with redis_server(tmp_path) as server:
        async with RedisStore.connect(server.url, operation_timeout_seconds=5) as store:
            cache, choice = cache_on(store, told, refuses=True), make_choice()
            assert await cache.ask(ACME, make_call(QUESTION), choice).answer() is None
            server.kill()
            with pytest.raises(Unavailable, match="Stored answers cannot be read") as refused:
                await cache.ask(ACME, make_call(QUESTION), choice).answer()
            assert await cache.ask(ACME, make_call(QUESTION, "no-cache"), choice).answer() is None
            assert await cache.ask(ACME, make_call(QUESTION, "no-store"), choice).answer() is None
    assert refused.value.status == 503
    assert told == [("refused", "redis")]


async def test_without_the_embedder_words_are_still_found_and_it_is_told(caches: Caches, minilm: MiniLM) -> None:
    """What is asked otherwise goes upstream; what is answered meanwhile is kept by its words only."""
    embedder = Fickle(minilm)
    cache, choice = caches.make(embedder), make_choice()
    asked = cache.ask(ACME, make_call(QUESTION), choice)
    assert await asked.answer() is None
    keep = asked.keep(choice.targets[0])
    assert keep is not None
    await keep(make_answer(), None)
    await caches.drain()
    embedder.fails = True
    exact = await cache.ask(ACME, make_call(QUESTION), choice).answer()
    assert exact is not None
    assert exact.status is CacheStatus.EXACT
    assert caches.away == []
    other = cache.ask(ACME, make_call(PARAPHRASE), choice)
    assert await other.answer() is None
    keep = other.keep(choice.targets[0])
    assert keep is not None
    await keep(make_answer(), None)
    await caches.drain()
    assert caches.away == [("bypassed", "embedder"), ("not_kept", "embedder")]


async def test_the_closed_policy_holds_for_the_embedder_too(caches: Caches, minilm: MiniLM) -> None:
    """A call that its words do not answer is refused while nearness cannot be judged."""
    embedder = Fickle(minilm)
    cache, choice = caches.make(embedder, refuses_when_away=True), make_choice()
    keep = (asked := cache.ask(ACME, make_call(QUESTION), choice)).keep(choice.targets[0])
    assert await asked.answer() is None
    assert keep is not None
    await keep(make_answer(), None)
    await caches.drain()
    embedder.fails = True
    with pytest.raises(Unavailable):
        await cache.ask(ACME, make_call(PARAPHRASE), choice).answer()
    assert caches.away == [("refused", "embedder")]
