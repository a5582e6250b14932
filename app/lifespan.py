"""The one place that knows concrete classes: opens every resource in order, wires the stages, closes all in reverse.

Nothing here decides anything about a request. What is opened is opened with `async with`, so a failure half-way leaves
nothing behind, and a stop settles what runs, flushes the ledger and only then lets go of the stores.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from redis.exceptions import ResponseError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.admission.idempotency import Idempotency
from app.admission.leases import Leases
from app.admission.pricing import cost_microusd
from app.admission.redis import RedisAdmission
from app.api.admin.services import AdminServices
from app.api.fine_tuning.services import TrainingServices
from app.auth.api_keys import Authenticator
from app.auth.identity import Identity
from app.backends.embedded import EmbeddedBackend
from app.backends.failover import Failover
from app.backends.health import Health, RetryBudget
from app.backends.metering import approximate_tokens
from app.backends.provider import HttpBackend
from app.backends.reply import Replier
from app.cache.cache import AnswerCache
from app.cache.embedder import MiniLM
from app.cache.forget import Forgetter
from app.cache.promises import Promises
from app.cache.remote import EmbeddingService, RemoteEmbedder
from app.cache.reports import Reports
from app.errors import Unavailable
from app.interfaces import Embedder, Objects, TokenCounter
from app.observability.correlation import current_trace_id
from app.observability.metrics import Metrics
from app.observability.request_log import request_log
from app.observability.tracing import NoTracing, Tracing, tracing
from app.pipeline import Stages, answer
from app.placement.placement import ReplicaPlacement
from app.recording.egress import public_client
from app.recording.flusher import Flusher
from app.recording.recorder import Recorder
from app.recording.survey import Survey
from app.recording.webhooks import Deliverer
from app.routing.call import Bounds
from app.routing.routes import Router
from app.settings import Settings, SettingsError, Training
from app.storage.announcements import Announcements, announce
from app.storage.database import database
from app.storage.embedded_redis import embedded_redis
from app.storage.events import append_events
from app.storage.janitor import Janitor
from app.storage.ledger import BudgetEvent
from app.storage.objects.bucket import BucketObjects
from app.storage.objects.local import LocalObjects
from app.storage.objects.requests import connected
from app.storage.objects.staging import Staging
from app.storage.policy import PolicyReader
from app.storage.redis import RedisDown, RedisStore
from app.storage.sealing import Sealer
from app.storage.tuning.leases import TRAINER_LOST, Expired
from app.storage.tuning.sweeper import Sweeper
from app.storage.usage import append_ledger
from app.types import Reply, Request
from app.wiring import (
    admin_services,
    admission_config,
    base_models,
    bucket_of,
    cache_config,
    last_known,
    local_share,
    price_list,
    secret_of,
    terms,
    tokens,
    training_services,
    unsealed,
    user_hasher,
)

SWEEP_SECONDS = 5.0

Check = Callable[[], Awaitable[str | None]]
_logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway, without its HTTP server."""

    settings: Settings
    answer: Callable[[Request], AbstractAsyncContextManager[Reply]]
    authenticator: Identity
    tracing: Tracing | NoTracing
    policy: PolicyReader
    admin: AdminServices
    training: TrainingServices
    metrics: Metrics
    needed: dict[str, Check]
    useful: dict[str, Check]


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Gateway]:
    """Open everything, yield the gateway, close everything."""
    folder = _data_folder(settings)
    metrics = Metrics(trace_id=current_trace_id)
    async with AsyncExitStack() as stack:
        stores = await _open_stores(stack, settings, folder, metrics)
        way = await _open_way(stack, settings, folder, metrics, stores)
        objects = await stack.enter_async_context(_objects(settings.training, folder / "objects"))
        forgetter = Forgetter(stores.redis, stores.policy.tenant_ids)
        promises = Promises(stores.redis, lambda tenant_id: stores.policy.current().cached_by_meaning(tenant_id))
        admin = replace(
            admin_services(settings, folder, stores.sql, stores.announcements, way.flusher, forgetter, promises),
            hash_user=way.hash_user,
            seal=stores.sealer.seal,
            pools=way.placement.status,
        )
        await _start_loops(stack, settings, metrics, stores, way, admin, objects)
        yield Gateway(
            settings=settings,
            answer=way.answer,
            authenticator=way.identity,
            tracing=stores.tracing,
            policy=stores.policy,
            admin=admin,
            training=replace(
                training_services(settings, folder, admin, way.identity, stores.policy, objects),
                metrics=metrics.training,
            ),
            metrics=metrics,
            needed={
                "redis": partial(_redis_answers, stores.redis),
                "policy": partial(_policy_is_fresh, stores.policy),
            },
            useful={"pools": way.placement.check},
        )


@dataclass(frozen=True, slots=True)
class _Stores:
    """What outlives requests: Redis, SQL, the policy read from it, telemetry, the seal of provider keys."""

    redis: RedisStore
    sql: AsyncEngine
    policy: PolicyReader
    announcements: Announcements
    tracing: Tracing | NoTracing
    sealer: Sealer


@dataclass(frozen=True, slots=True)
class _Way:
    """The request's way, built: its entrance, and those of its stages that others must reach."""

    answer: Idempotency
    identity: Identity
    placement: ReplicaPlacement
    flusher: Flusher
    hash_user: Callable[[str, str], str]


async def _open_stores(stack: AsyncExitStack, settings: Settings, folder: Path, metrics: Metrics) -> _Stores:
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
    return _Stores(redis, sql, policy, announcements, traces, sealer)


async def _open_way(stack: AsyncExitStack, settings: Settings, folder: Path, metrics: Metrics, stores: _Stores) -> _Way:
    embedder = await _embedder(stack, settings, folder)
    policy, hash_user = stores.policy, user_hasher(settings, folder)
    keys, flags = (last_known(settings, policy, part, metrics.fell_back) for part in ("auth", "flags"))
    identity = Identity(
        Authenticator(keys, newer=stores.announcements.newer),
        tokens(settings, keys),
        settings.identity.own_provider_keys,
    )
    health = Health(time.monotonic)
    placement = await stack.enter_async_context(_placement(settings, metrics, policy, health))
    backend = stores.tracing.backend(await stack.enter_async_context(HttpBackend()))
    embedded = EmbeddedBackend(embedder, _counter(embedder))
    flusher = _flusher(stores, metrics)
    admission = _admission(settings, metrics, stores, flusher, hash_user)
    cache = _cache(settings, metrics, stores, await _cache_embedder(stack, settings, embedder))
    stages = Stages(
        authenticate=identity.principal,
        bounds=Bounds(settings.admission.max_output_tokens, settings.admission.max_choices),
        router=Router(flags.current, price_list(settings), base_models(settings)),
        ask_for_news=stores.announcements.ask,
        admission=admission,
        recorder=Recorder(
            cost_microusd,
            stores.tracing.finished(metrics.finished),
            hash_user,
            request_log(settings.telemetry.log_format, settings.telemetry.log_level),
        ),
        cache=cache,
        reach=Failover(placement, backend, embedded, health, RetryBudget(time.monotonic)).reach,
        replier=Replier(approximate_tokens),
    )
    metrics.watch(
        policy_age_seconds=lambda: policy.age_seconds,
        ledger_backlog_entries=lambda: flusher.backlog_entries,
        reservations_outstanding=lambda: admission.outstanding.reservations,
        reserved_microdollars=lambda: admission.outstanding.microusd,
        breakers=health.states,
    )
    way = Idempotency(stores.redis, identity.principal, partial(answer, stages))
    stack.push_async_callback(_flush_last, flusher)
    stack.push_async_callback(admission.drain)
    stack.push_async_callback(way.drain)
    stack.push_async_callback(cache.drain)
    return _Way(way, identity, placement, flusher, hash_user)


def _placement(settings: Settings, metrics: Metrics, policy: PolicyReader, health: Health) -> ReplicaPlacement:
    return ReplicaPlacement(
        settings.all_providers(),
        settings.all_pools(),
        breakers=health,
        served=policy.served,
        observe=metrics.adapter,
    )


def _admission(
    settings: Settings, metrics: Metrics, stores: _Stores, flusher: Flusher, hash_user: Callable[[str, str], str]
) -> RedisAdmission:
    return RedisAdmission(
        stores.redis,
        admission_config(settings),
        on_refusal=metrics.refused,
        hash_user=hash_user,
        local=local_share(settings),
        on_outage=metrics.fell_back,
        on_settled=flusher.settled,
    )


def _cache(settings: Settings, metrics: Metrics, stores: _Stores, embedder: Embedder | None) -> AnswerCache:
    return AnswerCache(
        stores.redis,
        embedder,
        cache_config(settings),
        reports=Reports(metrics.guarded, metrics.compared, partial(metrics.fell_back, "cache")),
    )


def _flusher(stores: _Stores, metrics: Metrics) -> Flusher:
    return Flusher(
        stores.redis,
        partial(append_ledger, stores.sql),
        stores.policy.tenant_ids,
        write_events=partial(_write_events, stores.sql, metrics),
        write_errors=(SQLAlchemyError, OSError),
        on_lost=metrics.lost,
    )


async def _start_loops(
    stack: AsyncExitStack,
    settings: Settings,
    metrics: Metrics,
    stores: _Stores,
    way: _Way,
    admin: AdminServices,
    objects: Objects,
) -> None:
    """What runs beside requests until the end; each loop waits out the outages of its stores by itself."""
    webhooks = await stack.enter_async_context(
        public_client(timeout_seconds=settings.webhooks.timeout_seconds, allow_private=admin.private_webhooks)
    )
    horizon = settings.adapters.files_horizon_seconds
    survey = Survey(stores.sql, admin.promises.census)
    metrics.watch(surveyed=lambda: survey.seen)
    for loop in (
        stores.policy.run(),
        stores.announcements.listen(),
        way.flusher.run(),
        way.placement.run(),
        way.placement.gossip.tell(stores.redis, (RedisDown, ResponseError)),
        way.placement.gossip.listen(stores.redis),
        _sweep(Leases(stores.redis, lease_seconds=settings.admission.lease_seconds), stores.policy),
        Janitor(stores.sql, admin.artifacts, horizon_seconds=horizon).run(),
        Sweeper(stores.sql, objects, terms(settings), on_expired=partial(_count_expired, metrics)).run(),
        Deliverer(
            stores.sql, webhooks, admin.webhook_key, allow_private=admin.private_webhooks, count=metrics.webhook
        ).run(),
        survey.run(),
    ):
        stack.push_async_callback(_stopped, asyncio.create_task(loop))


def _count_expired(metrics: Metrics, expired: Expired) -> None:
    metrics.training.lost(expired.lost)
    metrics.training.ended("failed", TRAINER_LOST, jobs=expired.failed)
    metrics.training.ended("cancelled", jobs=expired.cancelled)


async def migrate_database(settings: Settings) -> None:
    """Bring the schema up to date and leave."""
    async with _sql(settings, _data_folder(settings)):
        pass


def new_request_id() -> str:
    """A request's name in headers, logs and ledger: 128 random bits."""
    return f"req_{secrets.token_hex(16)}"


def _data_folder(settings: Settings) -> Path:
    folder = settings.data_folder.resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


@asynccontextmanager
async def _objects(chosen: Training, folder: Path) -> AsyncIterator[Objects]:
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


async def _embedder(stack: AsyncExitStack, settings: Settings, folder: Path) -> MiniLM | None:
    if not settings.cache.semantic:
        return None
    embedder = await asyncio.to_thread(MiniLM.load, folder / "models")
    stack.callback(embedder.close)
    return embedder


async def _cache_embedder(stack: AsyncExitStack, settings: Settings, own: MiniLM | None) -> Embedder | None:
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


def _counter(embedder: MiniLM | None) -> TokenCounter:
    return approximate_tokens if embedder is None else embedder.count_tokens


async def _write_events(
    engine: AsyncEngine, metrics: Metrics, tenant: str, events: Sequence[tuple[str, BudgetEvent]]
) -> None:
    """Of several gateways that read an event one writes it down, and counts it."""
    for event in await append_events(engine, tenant, events):
        metrics.budget_event(event.event, event.limit)


async def _sweep(leases: Leases, policy: PolicyReader) -> None:
    """Charge what has run out of its lease, of tenants that send nothing too."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        try:
            await leases.sweep(policy.tenant_ids())
        except (RedisDown, ResponseError) as exc:
            _logger.warning("leases_not_swept", error=type(exc).__name__)


async def _stopped(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _flush_last(flusher: Flusher) -> None:
    try:
        await flusher.flush_once()
    except (RedisDown, ResponseError, SQLAlchemyError, OSError) as exc:
        _logger.warning("ledger_left_in_redis", error=type(exc).__name__, then="the next flusher brings it to SQL")


async def _redis_answers(store: RedisStore) -> str | None:
    try:
        await store.ping()
    except (RedisDown, ResponseError):
        return "Redis does not answer: limits and budgets cannot be checked"
    return None


async def _policy_is_fresh(policy: PolicyReader) -> str | None:
    try:
        policy.current()
    except Unavailable:
        return f"keys and routes were last read {policy.age_seconds:.0f} s ago: SQL does not answer"
    return None
