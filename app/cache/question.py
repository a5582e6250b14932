"""One call's question to the cache: sent with the reservation, answered after it, kept when the answer is there.

What a question learns on the way is used again at its end: the turn's vector, the epoch it was asked in, a hit that is
to be checked rather than served. Fail mode: open, unless `refuses_when_away` says otherwise. Redis that is down, slow
or full, and an embedder that fails, cost a hit and nothing else; an answer whose epoch is unknown is not kept.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import structlog
from numpy.typing import NDArray
from redis.exceptions import ResponseError

from app.cache import promise
from app.cache.assemble import assemble
from app.cache.coalesce import Flights, Reach, flight_key
from app.cache.compare import MAX_CHARACTERS, agree, same_words
from app.cache.control import Control
from app.cache.exact import ExactAnswers, pack, unpack
from app.cache.features import Features, features
from app.cache.key import Keys
from app.cache.semantic import SemanticIndex, StreamBounds
from app.cache.state import State, States, parsed
from app.cache.stored import storable, text_of, usage_of, with_usage
from app.cache.tasks import Tasks
from app.errors import Unavailable
from app.interfaces import Embedder, EmbedderFailed, Record, Upstream
from app.storage.redis import RedisDown
from app.types import CachedAnswer, CachePolicy, CacheStatus, Call, Choice, Target, Usage

Keep = Callable[[bytes, Usage | None], Awaitable[None]]

_logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Shelf:
    """What all questions of a process share."""

    answers: ExactAnswers
    states: States
    flights: Flights
    semantic: SemanticIndex | None
    embedder: Embedder | None
    max_entries_per_scope: int
    max_answer_bytes: int
    on_compared: Callable[[str, bool], None]
    on_away: Callable[[str, str], None] = lambda _decision, _away: None
    refuses_when_away: bool = False
    clock: Callable[[], float] = time.time
    draw: Callable[[], float] = random.random
    tasks: Tasks = field(default_factory=Tasks)
    keeping: set[bytes] = field(default_factory=set)


class Question:
    """Implements `app.interfaces.Asked` for a call whose route has a cache."""

    def __init__(self, shelf: Shelf, tenant_id: str, call: Call, choice: Choice, keys: Keys, control: Control) -> None:
        self.status = CacheStatus.MISS if control.reads else CacheStatus.BYPASS
        self._shelf = shelf
        self._tenant_id = tenant_id
        self._call = call
        self._choice = choice
        self._keys = keys
        self._control = control
        self._asked_at = shelf.clock()
        self._state: State | None = None
        self._told: Features | None = None
        self._vector: NDArray[np.float32] | None = None
        self._doubted: tuple[CachedAnswer, float] | None = None
        self._send()

    def _send(self) -> None:
        shelf, tenant_id, keys = self._shelf, self._tenant_id, self._keys
        reads = self._control.reads
        self._state_sent = shelf.states.read(tenant_id, keys.labels)
        self._exact_sent = shelf.answers.get(tenant_id, keys.labels, keys.exact) if reads else None
        self._page = shelf.semantic.read(tenant_id, keys) if reads and self._is_semantic() and shelf.semantic else None
        for sent in (self._state_sent, self._exact_sent, self._page.entries if self._page else None):
            if sent is not None:
                sent.add_done_callback(_seen)

    async def answer(self) -> CachedAnswer | None:
        """A stored answer that may stand for this call's own, or None; raises Unavailable where that is the policy."""
        try:
            self._state = parsed(await self._state_sent)
            if self._exact_sent is None:
                return None
            exact = unpack(await self._exact_sent, self._state.epoch, CacheStatus.EXACT)
            return exact if exact is not None and self._is_fresh(exact) else await self._near(self._state)
        except (RedisDown, ResponseError) as exc:
            self._does_without("redis", exc)
        except EmbedderFailed as exc:
            _logger.warning("embedder_failed", error=str(exc))
            self._does_without("embedder", exc)
        return None

    def _does_without(self, away: str, exc: Exception) -> None:
        """What a stored answer might have spared is asked of the upstream; by the other policy nobody is asked."""
        if not self._control.reads:
            return
        if self._shelf.refuses_when_away:
            self._shelf.on_away("refused", away)
            raise Unavailable("Stored answers cannot be read right now; try again shortly.") from exc
        self._shelf.on_away("bypassed", away)

    def share(self, reach: Reach, record: Record) -> AbstractAsyncContextManager[tuple[Target, Upstream]]:
        """The upstream's answer, together with identical calls of this tenant that are under way."""
        if not self._control.reads:
            return reach(record)
        key = flight_key(self._tenant_id, self._keys.exact, self._call, self._choice)
        return self._shelf.flights.join(key, reach, record)

    def keep(self, target: Target) -> Keep | None:
        """What keeps this target's answer; None where it must not be kept.

        A fallback's answer is not: it would outlive the failure that it covered for.
        """
        return self._keep if self._control.keeps and target == self._choice.targets[0] else None

    async def _near(self, state: State) -> CachedAnswer | None:
        semantic = self._shelf.semantic
        if semantic is None or self._page is None or state.promise.off:
            return None
        index = await semantic.current(self._tenant_id, self._keys, self._page)
        if not len(index):
            return None
        told = self._told = features(self._keys.turn)
        if not told.readable:
            return None
        self._vector = await self._embedded(self._keys.turn)
        threshold = promise.threshold(state.promise, self._policy.threshold)
        for near in semantic.matches(index, self._vector, told, threshold):
            payload = await self._shelf.answers.get(self._tenant_id, self._keys.labels, near.key)
            answer = unpack(payload, state.epoch, CacheStatus.SEMANTIC)
            if answer is None:
                index.forget(near.key)
            elif self._is_fresh(answer):
                return self._served(answer, near.similarity)
        return None

    def _served(self, answer: CachedAnswer, similarity: float) -> CachedAnswer | None:
        """The answer, unless it is drawn to be compared with what the upstream says now."""
        if self._shelf.draw() >= self._policy.verify_share:
            return answer
        self._doubted = (answer, similarity)
        return None

    async def _keep(self, body: bytes, usage: Usage | None = None) -> None:
        """Keep a complete answer (of a streaming call: its events); refuses what must not be replayed; never raises.

        The exact answer is sent at once, so that it is there when the caller has its own; what needs a vector is done
        by a task of the cache's own. `usage` is for streams that do not say what they cost.
        """
        whole = assemble(body) if self._call.stream else body
        if self._state is None or whole is None or not storable(whole) or self._keys.exact in self._shelf.keeping:
            return
        if usage_of(whole) is None:
            whole = with_usage(whole, usage or _estimated(self._call, whole))
        if self._doubted is not None:
            self._shelf.tasks.start(self._compare(whole, *self._doubted))
        if len(whole) <= self._shelf.max_answer_bytes:
            self._put(whole, self._state.epoch)

    def _put(self, whole: bytes, epoch: bytes) -> None:
        shelf, keys = self._shelf, self._keys
        payload = pack(whole, stored_at=shelf.clock(), epoch=epoch)
        sent = shelf.answers.put(self._tenant_id, keys.labels, keys.exact, payload, self._policy.ttl_seconds)
        shelf.keeping.add(keys.exact)
        sent.add_done_callback(self._put_down)
        if shelf.semantic is not None and self._is_semantic():
            task = shelf.tasks.start(self._add(shelf.semantic))
            shelf.semantic.adding(self._tenant_id, keys, task)

    def _put_down(self, sent: asyncio.Future[object]) -> None:
        self._shelf.keeping.discard(self._keys.exact)
        if not sent.cancelled() and sent.exception() is not None:
            self._shelf.on_away("not_kept", "redis")

    async def _add(self, semantic: SemanticIndex) -> None:
        told = self._told or features(self._keys.turn)
        if not told.readable:
            return
        bounds = StreamBounds(self._shelf.max_entries_per_scope, self._policy.ttl_seconds)
        now = self._shelf.clock()
        try:
            vector = self._vector if self._vector is not None else await self._embedded(self._keys.turn)
            sent = semantic.add(self._tenant_id, self._keys, vector, told, now=now, bounds=bounds)
            await asyncio.gather(*sent)
        except (RedisDown, ResponseError):
            self._shelf.on_away("not_kept", "redis")
        except EmbedderFailed as exc:
            self._shelf.on_away("not_kept", "embedder")
            _logger.warning("embedder_failed", error=str(exc))

    async def _compare(self, fresh: bytes, kept: CachedAnswer, similarity: float) -> None:
        """Judge the hit that was not served, and let every replica know."""
        one, other = text_of(fresh), text_of(kept.body)
        try:
            agreed = same_words(one, other) or agree(one, other, await self._similarity(one, other))
            policy = self._policy
            judged = partial(
                promise.judged,
                agreed=agreed,
                similarity=similarity,
                own=policy.threshold,
                budget=policy.false_hit_budget,
                now=self._shelf.clock(),
            )
            after = await self._shelf.states.amend(self._tenant_id, self._keys.labels, judged)
        except (RedisDown, ResponseError, EmbedderFailed) as exc:
            _logger.warning("semantic_hit_not_compared", error=type(exc).__name__)
            return
        self._shelf.on_compared(self._choice.route.name, agreed)
        if not agreed:
            _logger.warning(
                "semantic_hit_wrong",
                tenant=self._tenant_id,
                route=self._choice.route.name,
                threshold=after.threshold,
                off=after.off,
            )

    async def _similarity(self, one: str, other: str) -> float:
        vectors = await self._vectors([one[:MAX_CHARACTERS], other[:MAX_CHARACTERS]])
        return float(vectors[0] @ vectors[1])

    async def _embedded(self, text: str) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = (await self._vectors([text]))[0]
        return vector

    async def _vectors(self, texts: list[str]) -> NDArray[np.float32]:
        if self._shelf.embedder is None:
            raise EmbedderFailed("there is no embedder")
        return await self._shelf.embedder.embed(texts)

    @property
    def _policy(self) -> CachePolicy:
        return self._choice.route.cache

    def _is_semantic(self) -> bool:
        return self._shelf.semantic is not None and self._policy.semantic

    def _is_fresh(self, answer: CachedAnswer) -> bool:
        return self._control.accepts(self._asked_at - answer.stored_at)


class Bypassed:
    """Implements `app.interfaces.Asked` for a call that the cache has nothing to do with; it costs nothing."""

    status = CacheStatus.BYPASS

    async def answer(self) -> CachedAnswer | None:
        """Nothing."""
        return None

    def share(self, reach: Reach, record: Record) -> AbstractAsyncContextManager[tuple[Target, Upstream]]:
        """The upstream's own answer."""
        return reach(record)

    def keep(self, target: Target) -> Keep | None:
        """Nothing keeps it."""
        del target
        return None


def _seen(sent: asyncio.Future[object]) -> None:
    """A refused call never asks what its question brought; its failure is then nobody's."""
    if not sent.cancelled():
        sent.exception()


def _estimated(call: Call, body: bytes) -> Usage:
    return Usage(call.prompt_tokens_estimate, max(1, len(text_of(body).encode()) // 4), estimated=True)
