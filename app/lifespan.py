"""The one place that knows concrete classes: opens every resource in order, wires the stages, closes all in reverse.

Nothing here decides anything about a request. What is opened is opened with `async with`, so a failure half-way leaves
nothing behind, and a stop settles what runs, flushes the ledger and only then lets go of the stores.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
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
from app.backends.metering import approximate_tokens
from app.backends.provider import HttpBackend
from app.backends.reply import Replier
from app.cache.cache import AnswerCache, CacheConfig
from app.cache.embedder import MiniLM
from app.cache.forget import Forgetter
from app.cache.remote import EmbeddingService, RemoteEmbedder
from app.errors import Unavailable
from app.interfaces import TokenCounter
from app.interfaces import Embedder
from app.observability.correlation import current_trace_id
from app.observability.metrics import Metrics
from app.observability.tracing import NoTracing, Tracing, tracing
from app.pipeline import Stages, answer
from app.placement.placement import ReplicaPlacement
from app.recording.flusher import Flusher
from app.recording.recorder import Recorder
from app.routing.call import Bounds
from app.routing.prices import PriceList
from app.routing.routes import Router
from app.settings import Settings, SettingsError
from app.storage.announcements import Announcements
from app.storage.base_shapes import BaseShapes
from app.storage.database import database
from app.storage.embedded_redis import embedded_redis
from app.storage.janitor import Janitor
from app.storage.kept_secret import kept_secret
from app.storage.policy import PolicyReader
from app.storage.redis import RedisDown, RedisStore
from app.storage.signatures import Signers
from app.storage.usage import append_ledger
from app.types import Reply, Request

SWEEP_SECONDS = 5.0

Check = Callable[[], Awaitable[str | None]]
_logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway, without its HTTP server."""

    settings: Settings
    answer: Callable[[Request], AbstractAsyncContextManager[Reply]]
    authenticator: Authenticator
    tracing: Tracing | NoTracing
    policy: PolicyReader
    admin: AdminServices
    metrics: Metrics
    checks: dict[str, Check]


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Gateway]:
    """Open everything, yield the gateway, close everything."""
    folder = _data_folder(settings)
    metrics = Metrics(trace_id=current_trace_id)
    async with AsyncExitStack() as stack:
        telemetry = settings.telemetry
        traces = await stack.enter_async_context(
            tracing(telemetry.otlp_endpoint, telemetry.trace_sample_ratio, count=metrics.spans)
        )
        store = await stack.enter_async_context(_redis(settings, folder, metrics))
        engine = await stack.enter_async_context(_sql(settings, folder))
        embedder = await _embedder(stack, settings, folder)
        policy = PolicyReader(
            engine, poll_seconds=settings.policy_poll_seconds, max_age_seconds=settings.policy_max_age_seconds
        )
        await policy.refresh()
        announcements = Announcements(store, policy, poll_seconds=settings.policy_poll_seconds)
        authenticator = Authenticator(policy, newer=announcements.newer)
        health = Health(time.monotonic)
        placement = await stack.enter_async_context(
            ReplicaPlacement(
                settings.all_providers(),
                settings.all_pools(),
                breakers=health,
                served=policy.served,
                observe=metrics.adapter,
            )
        )
        backend = traces.backend(await stack.enter_async_context(HttpBackend()))
        failover = Failover(
            placement, backend, EmbeddedBackend(embedder, _counter(embedder)), health, RetryBudget(time.monotonic)
        )
        hash_user = _user_hasher(folder)
        admission = RedisAdmission(store, _admission(settings), on_refusal=metrics.refused, hash_user=hash_user)
        cache = AnswerCache(
            store,
            await _cache_embedder(stack, settings, embedder),
            _cache(settings),
            on_refusal=metrics.guarded,
            on_compared=metrics.compared,
        )
        flusher = Flusher(
            store,
            partial(append_ledger, engine),
            policy.tenant_ids,
            write_errors=(SQLAlchemyError, OSError),
            on_lost=metrics.lost,
        )
        metrics.watch(
            policy_age_seconds=lambda: policy.age_seconds,
            ledger_backlog_entries=lambda: flusher.backlog_entries,
            breakers=health.states,
        )
        stages = Stages(
            authenticate=authenticator.principal,
            bounds=Bounds(settings.admission.max_output_tokens, settings.admission.max_choices),
            router=Router(policy.current, _prices(settings), _base_models(settings)),
            admission=admission,
            recorder=Recorder(cost_microusd, traces.finished(metrics.finished), hash_user),
            cache=cache,
            reach=failover.reach,
            replier=Replier(approximate_tokens),
        )
        stack.push_async_callback(_flush_last, flusher)
        stack.push_async_callback(admission.drain)
        stack.push_async_callback(cache.drain)
        for loop in (
            policy.run(),
            Janitor(engine, folder / "objects", horizon_seconds=settings.adapters.files_horizon_seconds).run(),
            announcements.listen(),
            flusher.run(),
            placement.run(),
            _sweep(admission, policy, metrics),
        ):
            stack.push_async_callback(_stopped, asyncio.create_task(loop))
        yield Gateway(
            settings=settings,
            answer=partial(answer, stages),
            authenticator=authenticator,
            tracing=traces,
            policy=policy,
            admin=_admin(settings, folder, engine, announcements, flusher, Forgetter(store, policy.tenant_ids)),
            metrics=metrics,
            checks={
                "redis": partial(_redis_answers, store),
                "policy": partial(_policy_is_fresh, policy),
                "pools": placement.check,
            },
        )


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


def _admission(settings: Settings) -> AdmissionConfig:
    chosen = settings.admission
    return AdmissionConfig(chosen.lease_seconds, chosen.default_output_tokens)


def _cache(settings: Settings) -> CacheConfig:
    chosen = settings.cache
    return CacheConfig(
        max_scopes=chosen.max_scopes,
        max_entries_per_scope=chosen.max_entries_per_scope,
        max_entries_per_tenant=chosen.max_entries_per_tenant,
        max_answer_bytes=chosen.max_answer_bytes,
        every_caller_pays=chosen.coalesced_callers_pay == "each",
    )


def _prices(settings: Settings) -> PriceList:
    prices = settings.prices
    known = {name: price.value() for name, price in prices.models.items()}
    return PriceList(known, prices.default.value() if prices.unknown == "default" else None)


def _base_models(settings: Settings) -> dict[str, str]:
    return {name: pool.base_model for name, pool in settings.all_pools().items()}


def _user_hasher(folder: Path) -> Callable[[str, str], str]:
    """Users appear in the ledger as a keyed hash only: equal within a tenant, meaningless elsewhere."""
    key = kept_secret(folder, "user.key").encode()

    def hashed(tenant_id: str, user: str) -> str:
        return hmac.new(key, f"{len(tenant_id)}:{tenant_id}{user}".encode(), hashlib.sha256).hexdigest()

    return hashed


def _admin(
    settings: Settings,
    folder: Path,
    engine: AsyncEngine,
    announcements: Announcements,
    flusher: Flusher,
    forgetter: Forgetter,
) -> AdminServices:
    given = settings.admin_key
    return AdminServices(
        admin_key=given.get_secret_value() if given else kept_secret(folder, "admin.key"),
        engine=engine,
        artifacts=folder / "objects",
        base_models=_base_models(settings),
        providers=frozenset(settings.all_providers()),
        prices=_prices(settings),
        changed=announcements.changed,
        flush=flusher.flush_once,
        forget_answers=forgetter.forget,
        signers=_signers(settings),
        bases={name: BaseShapes.read(path) for name, path in settings.adapters.bases.items()},
    )


def _signers(settings: Settings) -> Signers:
    keys = {name: bytes.fromhex(key) for name, key in settings.adapters.trusted_signers.items()}
    return Signers(keys, settings.adapters.require_signature)


async def _sweep(admission: RedisAdmission, policy: PolicyReader, metrics: Metrics) -> None:
    """Charge what has run out of its lease, of tenants that send nothing too."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        try:
            held = await admission.sweep(policy.tenant_ids())
            metrics.outstanding(held.reservations, held.microusd)
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
