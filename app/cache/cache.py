"""The cache stage: exact first, then semantic, within one tenant and one scope; identical calls share one call.

Fail mode: open, unless `refuses_when_away`: then a call of a cached route is refused with 503 rather than answered at
an upstream's price. Both are told (`Reports`). A route that does not ask for a cache costs no I/O and no allocation.
What a question needs of Redis leaves in the same turn of the event loop as the reservation that follows it, and so in
one round trip with it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from app.cache.coalesce import Flights
from app.cache.control import control
from app.cache.exact import ExactAnswers
from app.cache.guard import GuardReason
from app.cache.index import Indexes
from app.cache.key import Bypass, keys
from app.cache.question import Bypassed, Question, Shelf
from app.cache.reports import TO_NOBODY, Reports
from app.cache.semantic import SemanticIndex
from app.cache.state import States
from app.interfaces import Asked, Embedder
from app.storage.redis import RedisStore
from app.types import Call, Choice, Principal

_BYPASSED = Bypassed()


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """Bounds of the cache: what one process keeps in memory, how long one scope's stream grows, who pays together."""

    max_scopes: int = 1024
    max_entries_per_scope: int = 10_000
    max_entries_per_tenant: int = 50_000
    max_answer_bytes: int = 1024 * 1024
    every_caller_pays: bool = False
    refuses_when_away: bool = False


class AnswerCache:
    """Implements `app.interfaces.Cache`; without an embedder it is exact only."""

    def __init__(
        self,
        store: RedisStore,
        embedder: Embedder | None,
        config: CacheConfig,
        *,
        reports: Reports = TO_NOBODY,
        clock: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._semantic = _semantic(store, embedder, config, reports.refused) if embedder is not None else None
        self._shelf = Shelf(
            answers=ExactAnswers(store),
            states=States(store),
            flights=Flights(every_caller_pays=config.every_caller_pays, max_bytes=config.max_answer_bytes),
            semantic=self._semantic,
            embedder=embedder,
            max_entries_per_scope=config.max_entries_per_scope,
            max_answer_bytes=config.max_answer_bytes,
            on_compared=reports.compared,
            on_away=reports.away,
            refuses_when_away=config.refuses_when_away,
            clock=clock,
            draw=draw,
        )

    def ask(self, principal: Principal, call: Call, choice: Choice) -> Asked:
        """Send for what is stored; the answer is awaited later. Never raises, never waits."""
        policy = choice.route.cache
        if not (policy.exact or policy.semantic):
            return _BYPASSED
        wish = control(call.cache_control)
        found = keys(principal, call, choice) if wish.reads or wish.keeps else Bypass.OPERATION
        if isinstance(found, Bypass):
            return _BYPASSED
        return Question(self._shelf, principal.tenant_id, call, choice, found, wish)

    async def drain(self) -> None:
        """Let what is being kept be kept, and end the rest."""
        await self._shelf.tasks.drain()
        if self._semantic is not None:
            await self._semantic.drain()


def _semantic(
    store: RedisStore, embedder: Embedder, config: CacheConfig, on_refusal: Callable[[GuardReason], None]
) -> SemanticIndex:
    indexes = Indexes(
        dimensions=embedder.dimensions,
        max_scopes=config.max_scopes,
        max_entries_per_scope=config.max_entries_per_scope,
        max_entries_per_tenant=config.max_entries_per_tenant,
    )
    return SemanticIndex(store, indexes, dimensions=embedder.dimensions, model=embedder.model, on_refusal=on_refusal)
