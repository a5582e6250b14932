"""What the proof of the cache measures inside one process: pairs, tenants, lookup time."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.cache.cache import AnswerCache, CacheConfig
from app.cache.features import features
from app.cache.index import ScopeIndex, encode
from app.cache.stored import text_of
from app.interfaces import Embedder
from app.storage.redis import RedisStore
from app.types import CacheStatus
from tests.cache.calls import make_answer, make_call, make_choice, make_principal
from tests.cache.pairs.measure import Judged, rates

THRESHOLDS = (0.7, 0.75, 0.8, 0.84, 0.88, 0.92)
CONCURRENT = 400


class Table:
    """Implements `app.interfaces.Embedder` from vectors made beforehand: lookups without the embedding."""

    def __init__(self, model: str, vectors: dict[str, NDArray[np.float32]]) -> None:
        self.dimensions = len(next(iter(vectors.values())))
        self.model = model
        self._vectors = vectors

    @classmethod
    async def of(cls, embedder: Embedder, texts: Sequence[str]) -> Table:
        """A table of these texts' vectors."""
        rows = await embedder.embed(texts)
        return cls(embedder.model, dict(zip(texts, rows, strict=True)))

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """What is in the table."""
        return np.stack([self._vectors[text] for text in texts])


def described(half: str, judged: Sequence[Judged]) -> Iterator[str]:
    """Recall and false hits over the threshold."""
    for threshold in THRESHOLDS:
        guarded, bare = rates(judged, threshold), rates(judged, threshold, guarded=False)
        yield (
            f"{half:6} threshold {threshold:.2f}: recall {guarded.recall:6.1%}, false hits {guarded.false_hits} of "
            f"{guarded.near_misses} ({guarded.false_hit_rate:.2%}); without the guard {bare.recall:.1%} and "
            f"{bare.false_hit_rate:.1%}"
        )


@dataclass(frozen=True, slots=True)
class Tenancy:
    """What lookups of many tenants came to."""

    lookups: int
    hits: int
    semantic: int
    foreign: int
    seconds: float


async def measure_tenancy(store: RedisStore, embedder: Embedder, *, tenants: int, lookups: int) -> Tenancy:
    """Look up the same prompts for many tenants, half of whom have answers stored, and see whose answers are found."""
    asked = [f"How do I open the {thing}?" for thing in ("door", "file", "account", "window", "letter")]
    near = [text.replace("How do I", "What is the way to") for text in asked]
    table = await Table.of(embedder, asked + near)
    cache, principals = AnswerCache(store, table, CacheConfig()), [make_principal(f"t{n}") for n in range(tenants)]
    owners = {principal.tenant_id for principal in principals[::2]}
    for principal, text in itertools.product(principals[::2], asked):
        question = cache.ask(principal, make_call(text), make_choice())
        await question.answer()
        keep = question.keep(make_choice().targets[0])
        if keep is not None:
            await keep(make_answer(principal.tenant_id), None)
    await cache.drain()
    calls, choice, started = [make_call(text) for text in asked + near], make_choice(), time.perf_counter()
    hits = semantic = foreign = 0

    async def look(number: int) -> None:
        nonlocal hits, semantic, foreign
        principal = principals[number % tenants]
        answer = await cache.ask(principal, calls[number // tenants % len(calls)], choice).answer()
        if answer is not None:
            hits, semantic = hits + 1, semantic + (answer.status is CacheStatus.SEMANTIC)
            foreign += text_of(answer.body) != principal.tenant_id or principal.tenant_id not in owners

    for start in range(0, lookups, CONCURRENT):
        await asyncio.gather(*(look(number) for number in range(start, min(start + CONCURRENT, lookups))))
    await cache.drain()
    return Tenancy(lookups, hits, semantic, foreign, time.perf_counter() - started)


def measure_index(entries: int) -> float:
    """Milliseconds of one search of a scope of so many entries: the median of 50."""
    rng = np.random.default_rng(entries)
    vectors = rng.standard_normal((entries, 384), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = ScopeIndex(384, entries)
    for row, vector in enumerate(vectors):
        index.add(row.to_bytes(4), encode(vector), b"")
    return statistics.median(_milliseconds(lambda: index.nearest(vectors[7], 0.84, 8), 50))


async def measure_lookup(store: RedisStore, entries: int) -> float:
    """Milliseconds of a whole semantic miss on such a scope, Redis included and the embedding not: the median of 50."""
    await store.command("FLUSHALL")
    rng = np.random.default_rng(entries)
    texts = [f"Where is parcel {number}?" for number in range(64)]
    rows = rng.standard_normal((len(texts), 384), np.float32)
    table = Table("table", dict(zip(texts, rows / np.linalg.norm(rows, axis=1, keepdims=True), strict=True)))
    config = CacheConfig(max_entries_per_scope=entries, max_entries_per_tenant=entries)
    cache, choice = AnswerCache(store, table, config), make_choice()
    async with _filled(cache, store, entries, rng):
        times = []
        for text in texts[:50]:
            started = time.perf_counter()
            await cache.ask(make_principal(), make_call(text), choice).answer()
            times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


@asynccontextmanager
async def _filled(cache: AnswerCache, store: RedisStore, entries: int, rng: np.random.Generator) -> AsyncIterator[None]:
    """Put so many turns into the stream of the usual scope, and let the cache read them all."""
    question = cache.ask(make_principal(), make_call("Where is parcel 0?"), make_choice())
    await question.answer()
    keep = question.keep(make_choice().targets[0])
    if keep is not None:
        await keep(make_answer(), None)
    await cache.drain()
    (stream,) = await store.command("KEYS", "tg:{acme}:turns:*")
    words = (await store.command("XRANGE", stream, "-", "+"))[0][1][3]
    for start in range(0, entries, 500):
        rows = rng.standard_normal((min(500, entries - start), 384), np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        sent = [
            store.command("XADD", stream, "*", b"v", encode(row), b"f", words, b"k", (start + number).to_bytes(32))
            for number, row in enumerate(rows)
        ]
        await asyncio.gather(*sent)
    assert cache._semantic is not None
    index = cache._semantic._indexes  # how far the background reading has come
    async with asyncio.timeout(120):
        while index.entries("acme") < entries:
            await cache.ask(make_principal(), make_call("Where is parcel 63?"), make_choice()).answer()
            await asyncio.sleep(0.05)
    yield


def measure_guard() -> float:
    """Microseconds to take one question apart: the median of 200."""
    text = "Could you please tell me how I can turn on two-factor authentication for my account 1234?"
    return statistics.median(_milliseconds(lambda: features(text), 200)) * 1000


def _milliseconds(work: Callable[[], object], times: int) -> Iterator[float]:
    work()
    for _ in range(times):
        started = time.perf_counter()
        work()
        yield (time.perf_counter() - started) * 1000
