"""The one place that knows concrete classes: opens every resource in order, wires the stages, closes all in reverse.

Nothing here decides anything about a request. What is opened is opened with `async with`, so a failure half-way leaves
nothing behind, and a stop settles what runs, flushes the ledger and only then lets go of the stores.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from redis.exceptions import ResponseError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.admission.pricing import cost_microusd
from app.admission.redis import AdmissionConfig, RedisAdmission
from app.api.admin.services import AdminServices
from app.auth.api_keys import Authenticator
from app.backends.embedded import EmbeddedBackend
from app.backends.failover import Failover
from app.backends.health import Health, RetryBudget
from app.backends.provider import HttpBackend
from app.backends.reply import Replier
from app.cache.cache import AnswerCache, CacheConfig
from app.cache.embedder import MiniLM
from app.observability.metrics import Metrics
from app.pipeline import Stages, answer
from app.placement.placement import ReplicaPlacement
from app.recording.flusher import Flusher
from app.recording.recorder import Recorder
from app.routing.call import Bounds
from app.routing.prices import PriceList
from app.routing.routes import Router
from app.settings import Settings
from app.storage.artifacts import import_adapter
from app.storage.database import database, migrate
from app.storage.embedded_redis import embedded_redis
from app.storage.policy import PolicyReader
from app.storage.redis import RedisDown, RedisStore
from app.storage.usage import append_ledger
from app.types import Reply, Request

POLICY_CHANNEL = "tg:policy"
POLICY_REVISION = "tg:policy:revision"
SWEEP_SECONDS = 5.0

Check = Callable[[], Awaitable[str | None]]
_logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway, without its HTTP server."""

    settings: Settings
    answer: Callable[[Request], AbstractAsyncContextManager[Reply]]
    authenticator: Authenticator
    policy: PolicyReader
    admin: AdminServices
    metrics: Metrics
    checks: dict[str, Check]


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Gateway]:
    """Open everything, yield the gateway, close everything."""
    folder = settings.data_folder.resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(_redis(settings, folder, metrics))
        engine = await stack.enter_async_context(_sql(settings, folder))
        embedder = await asyncio.to_thread(MiniLM.load, folder / "models") if settings.cache.semantic else None
        yield await _wire(stack, settings, folder, metrics, store, engine, embedder)


async def _wire(
    stack: AsyncExitStack,
    settings: Settings,
    folder: Path,
    metrics: Metrics,
    store: RedisStore,
    engine: AsyncEngine,
    embedder: MiniLM | None,
) -> Gateway:
    policy = PolicyReader(engine, poll_seconds=settings.policy_poll_seconds, max_age_seconds=settings.policy_max_age_seconds)
    await policy.refresh()
    authenticator = Authenticator(policy, newer=partial(_newer, store, policy))
    placement = await stack.enter_async_context(ReplicaPlacement.open(settings.all_providers(), settings.all_pools()))
    backend = await stack.enter_async_context(HttpBackend())
    failover = Failover(placement, backend, EmbeddedBackend(embedder, count_tokens), Health(), RetryBudget())
    admission = RedisAdmission(store, _admission(settings), on_refusal=metrics.refused)
    cache = AnswerCache(store, embedder, _cache(settings))
    flusher = Flusher(store, partial(append_ledger, engine), policy.tenant_ids, write_errors=(SQLAlchemyError, OSError))
    stages = Stages(
        authenticate=authenticator.principal,
        bounds=Bounds(settings.admission.max_output_tokens, settings.admission.max_choices),
        router=Router(policy.current, _prices(settings), {n: p.base_model for n, p in settings.all_pools().items()}),
        admission=admission,
        recorder=Recorder(cost_microusd, metrics.finished, partial(_hash_user, kept_secret(folder, "user.key").encode())),
        cache=cache,
        reach=failover.reach,
        replier=Replier(count_tokens),
    )
    stack.push_async_callback(_flush_last, flusher)
    stack.push_async_callback(admission.drain)
    for loop in (policy.run(), flusher.run(), placement.run(), _listen(store, policy), _sweep(admission, policy)):
        stack.push_async_callback(_stopped, asyncio.create_task(loop))
    return Gateway(
        settings=settings,
        answer=partial(answer, stages),
        authenticator=authenticator,
        policy=policy,
        admin=_admin(settings, folder, store, engine, policy, flusher),
        metrics=metrics,
        checks={"redis": partial(_redis_answers, store), "policy": partial(_policy_is_fresh, policy, settings)},
    )


async def migrate_database(settings: Settings) -> None:
    """Bring the schema up to date and leave."""
    folder = settings.data_folder.resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with _sql(settings, folder):
        pass
