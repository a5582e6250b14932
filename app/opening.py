"""Opens what outlives requests, by the settings: Redis, SQL, the policy, telemetry, objects, sentence models.

What is named in the settings is used, else an embedded one is started; each is closed with the block or the stack that
opened it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from app.cache.embedder import MiniLM
from app.cache.remote import EmbeddingService, RemoteEmbedder
from app.interfaces import Embedder
from app.observability.metrics import Metrics
from app.observability.tracing import NoTracing, Tracing, tracing
from app.settings import Settings, SettingsError, Training
from app.storage.announcements import Announcements, announce
from app.storage.database import database
from app.storage.embedded_redis import embedded_redis
from app.storage.objects import Objects
from app.storage.objects.bucket import BucketObjects
from app.storage.objects.local import LocalObjects
from app.storage.objects.requests import connected
from app.storage.objects.staging import Staging
from app.storage.policy import PolicyReader
from app.storage.redis import RedisStore
from app.storage.sealing import Sealer
from app.wiring import bucket_of, secret_of, unsealed


@dataclass(frozen=True, slots=True)
class Stores:
    """What outlives requests: Redis, SQL, the policy read from it, telemetry, the seal of provider keys."""

    redis: RedisStore
    sql: AsyncEngine
    policy: PolicyReader
    announcements: Announcements
    tracing: Tracing | NoTracing
    sealer: Sealer


async def open_stores(stack: AsyncExitStack, settings: Settings, folder: Path, metrics: Metrics) -> Stores:
    """Everything a request and an admin call stand on; the policy has been read once."""
    telemetry = settings.telemetry
    traces = await stack.enter_async_context(
        tracing(
            telemetry.otlp_endpoint,
            telemetry.trace_sample_ratio,
            max_queued_spans=telemetry.max_queued_spans,
            count=metrics.spans,
        )
    )
    redis = await stack.enter_async_context(_redis(settings, folder, metrics))
    sql = await stack.enter_async_context(_sql(settings, folder))
    sealer = Sealer.of(secret_of(settings.identity.master_key, folder, "master.key"))
    policy = PolicyReader(
        sql,
        poll_seconds=settings.policy_poll_seconds,
        max_age_seconds=settings.policy_max_age_seconds,
        unseal=partial(unsealed, sealer),
        tell=partial(announce, redis),
    )
    await policy.refresh()
    announcements = Announcements(redis, policy, poll_seconds=settings.policy_poll_seconds)
    return Stores(redis, sql, policy, announcements, traces, sealer)


async def migrate_database(settings: Settings) -> None:
    """Bring the schema up to date and leave."""
    async with _sql(settings, data_folder(settings)):
        pass


def data_folder(settings: Settings) -> Path:
    """Where embedded stores, secrets and objects lie; made for its owner's eyes only."""
    folder = settings.data_folder.resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


@asynccontextmanager
async def open_objects(chosen: Training, folder: Path) -> AsyncIterator[Objects]:
    """The bucket that the settings name, else this folder."""
    bucket = bucket_of(chosen)
    if bucket is None:
        yield LocalObjects(folder)
        return
    async with connected(*bucket) as requests:
        yield BucketObjects(requests, Staging(folder / ".incoming"))


@asynccontextmanager
async def _redis(settings: Settings, folder: Path, metrics: Metrics) -> AsyncIterator[RedisStore]:
    async with AsyncExitStack() as stack:
        url = settings.redis_url
        if url is None:
            url = await stack.enter_async_context(embedded_redis(folder / "redis"))
        timeout = settings.redis_timeout_ms / 1000
        connected = RedisStore.connect(url, operation_timeout_seconds=timeout, on_error=metrics.redis_failed)
        yield await stack.enter_async_context(connected)


def _sql(settings: Settings, folder: Path) -> AbstractAsyncContextManager[AsyncEngine]:
    given = settings.database_url
    return database(given.get_secret_value() if given else f"sqlite:///{folder / 'tunegate.sqlite3'}")


async def own_embedder(stack: AsyncExitStack, settings: Settings, folder: Path) -> MiniLM | None:
    """The sentence model in this process, or None where nothing asks for one."""
    if not settings.cache.semantic:
        return None
    embedder = await asyncio.to_thread(MiniLM.load, folder / "models")
    stack.callback(embedder.close)
    return embedder


async def cache_embedder(stack: AsyncExitStack, settings: Settings, own: MiniLM | None) -> Embedder | None:
    """The service that the settings name, else the model in this process."""
    chosen = settings.cache.embedder
    if chosen is None or own is None:
        return own
    addresses = {name: (provider.base_url, provider.api_key) for name, provider in settings.all_providers().items()}
    addresses |= {name: (pool.replicas[0], pool.api_key) for name, pool in settings.all_pools().items()}
    if chosen.upstream not in addresses:
        raise SettingsError(
            f"cache.embedder.upstream: '{chosen.upstream}' is no provider or pool of this configuration"
        )
    base_url, api_key = addresses[chosen.upstream]
    service = EmbeddingService(base_url, chosen.model, chosen.dimensions, api_key, chosen.timeout_seconds)
    return await stack.enter_async_context(RemoteEmbedder.open(service))
