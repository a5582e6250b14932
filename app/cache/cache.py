"""The cache stage: exact first, then semantic, within one tenant and one scope; whatever fails here is a miss.

Fail mode: open. Redis that is down, slow or full, and an embedder that fails, cost a hit and nothing else. A route that
does not ask for a cache costs no I/O. The exact answer and the news of the scope's stream come in one round trip; the
turn is embedded only when there is something to compare it with, and what a lookup embedded `store` uses again.

An answer stored here is found by its scope, which names every target the route may take. The caller of `store` must
pass only answers of the first of them: a fallback's answer must not outlive the failure it covered for.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray
from redis.exceptions import ResponseError

from app.cache.assemble import assemble
from app.cache.exact import ExactAnswers, pack
from app.cache.features import features
from app.cache.guard import GuardReason
from app.cache.index import Indexes
from app.cache.key import Bypass, Keys, cacheable, keys
from app.cache.semantic import SemanticIndex
from app.cache.stored import storable, text_of, usage_of, with_usage
from app.interfaces import Embedder, EmbedderFailed
from app.storage.redis import RedisDown, RedisStore
from app.types import CachedAnswer, CacheStatus, Call, Choice, Principal, Usage

REMEMBERED = 512  # vectors of turns whose answers are still on their way

_logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """Bounds of the cache: what one process keeps in memory, and how long one scope's stream grows."""

    max_scopes: int = 1024
    max_entries_per_scope: int = 10_000
    max_entries_per_tenant: int = 50_000
    max_answer_bytes: int = 1024 * 1024


class AnswerCache:
    """Implements `app.interfaces.Cache`; without an embedder it is exact only."""

    def __init__(
        self,
        store: RedisStore,
        embedder: Embedder | None,
        config: CacheConfig,
        *,
        on_refusal: Callable[[GuardReason], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._clock = clock
        self._embedder = embedder
        self._answers = ExactAnswers(store)
        self._semantic = _semantic(store, embedder, config, on_refusal) if embedder is not None else None
        self._vectors: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()

    def wants(self, call: Call, choice: Choice) -> bool:
        """Whether this call's answer may be looked up and kept at all."""
        return _is_on(choice) and cacheable(call) is None

    async def lookup(self, principal: Principal, call: Call, choice: Choice) -> CachedAnswer | None:
        """A stored answer that may stand for this call's own, or None; never raises."""
        if not _is_on(choice):
            return None
        found = keys(principal, call, choice)
        if isinstance(found, Bypass):
            return None
        try:
            if self._semantic is None or not choice.route.cache.semantic:
                return await self._answers.get(principal.tenant_id, found.exact, CacheStatus.EXACT)
            return await self._nearest(self._semantic, principal.tenant_id, found, choice.route.cache.threshold)
        except (RedisDown, ResponseError) as exc:
            _logger.debug("cache_bypassed", error=type(exc).__name__)
        except EmbedderFailed as exc:
            _logger.warning("embedder_failed", error=str(exc))
        return None

    async def store(
        self, principal: Principal, call: Call, choice: Choice, body: bytes, usage: Usage | None = None
    ) -> None:
        """Keep a complete answer (of a streaming call: its events); refuses what must not be replayed; never raises.

        `usage` is what the answer cost, for streams that do not say so themselves; without it, it is estimated.
        """
        if not _is_on(choice) or len(body) > self._config.max_answer_bytes:
            return
        found = keys(principal, call, choice)
        whole = assemble(body) if call.stream else body
        if isinstance(found, Bypass) or whole is None or not storable(whole):
            return
        if usage_of(whole) is None:
            whole = with_usage(whole, usage or _estimated(call, whole))
        try:
            await self._keep(principal.tenant_id, found, choice, whole)
        except (RedisDown, ResponseError) as exc:
            _logger.debug("cache_bypassed", error=type(exc).__name__)

    async def _nearest(
        self, semantic: SemanticIndex, tenant_id: str, asked: Keys, threshold: float
    ) -> CachedAnswer | None:
        exact, index = await asyncio.gather(
            self._answers.get(tenant_id, asked.exact, CacheStatus.EXACT), semantic.current(tenant_id, asked.scope)
        )
        if exact is not None or not len(index):
            return exact
        told = features(asked.turn)
        if not told.readable:
            return None
        vector = await self._embedded(asked)
        for key in semantic.matches(index, vector, told, threshold):
            answer = await self._answers.get(tenant_id, key, CacheStatus.SEMANTIC)
            if answer is not None:
                return answer
            index.forget(key)
        return None

    async def _keep(self, tenant_id: str, found: Keys, choice: Choice, body: bytes) -> None:
        policy, now = choice.route.cache, self._clock()
        vector, told = None, features(found.turn)
        if self._semantic is not None and policy.semantic and told.readable:
            try:
                vector = await self._embedded(found)
            except EmbedderFailed as exc:
                _logger.warning("embedder_failed", error=str(exc))
        sent = [self._answers.put(tenant_id, found.exact, pack(body, now), policy.ttl_seconds)]
        if self._semantic is not None and vector is not None:
            sent.append(self._semantic.add(tenant_id, found.scope, found.exact, vector, told))
            sent += self._semantic.age(tenant_id, found.scope, now=now, ttl_seconds=policy.ttl_seconds)
        await asyncio.gather(*sent)

    async def _embedded(self, asked: Keys) -> NDArray[np.float32]:
        """The turn's vector; one that a lookup of the same call has made is used once more."""
        vector = self._vectors.pop(asked.exact, None)
        if vector is None and self._embedder is not None:
            vector = (await self._embedder.embed([asked.turn]))[0]
            self._vectors[asked.exact] = vector
            if len(self._vectors) > REMEMBERED:
                self._vectors.popitem(last=False)
        if vector is None:
            raise EmbedderFailed("there is no embedder")
        return vector


def _semantic(
    store: RedisStore, embedder: Embedder, config: CacheConfig, on_refusal: Callable[[GuardReason], None]
) -> SemanticIndex:
    indexes = Indexes(
        dimensions=embedder.dimensions,
        max_scopes=config.max_scopes,
        max_entries_per_scope=config.max_entries_per_scope,
        max_entries_per_tenant=config.max_entries_per_tenant,
    )
    return SemanticIndex(
        store,
        indexes,
        dimensions=embedder.dimensions,
        max_entries=config.max_entries_per_scope,
        on_refusal=on_refusal,
    )


def _is_on(choice: Choice) -> bool:
    return choice.route.cache.exact or choice.route.cache.semantic


def _estimated(call: Call, body: bytes) -> Usage:
    return Usage(call.prompt_tokens_estimate, max(1, len(text_of(body).encode()) // 4), estimated=True)
