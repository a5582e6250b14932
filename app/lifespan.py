"""The place that knows concrete classes: wires the stages over the stores, closes all in reverse.

`opening.py` opens what outlives requests, `background.py` runs what goes on beside them; only these three know classes.

Nothing here decides anything about a request. What is opened is opened with `async with`, so a failure half-way leaves
nothing behind, and a stop settles what runs, flushes the ledger and only then lets go of the stores.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import structlog
from redis.exceptions import ResponseError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app import background
from app.admission.idempotency import Idempotency
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
from app.cache.reports import Reports
from app.errors import Unavailable
from app.interfaces import Embedder, TokenCounter
from app.observability.correlation import current_trace_id
from app.observability.metrics import Metrics
from app.observability.request_log import request_log
from app.observability.tracing import NoTracing, Tracing
from app.opening import Stores, cache_embedder, data_folder, open_objects, open_stores, own_embedder
from app.pipeline import Stages, answer
from app.placement.placement import ReplicaPlacement
from app.placement.reports import PlacementReports
from app.recording.egress import public_client
from app.recording.flusher import Flusher
from app.recording.recorder import Recorder
from app.routing.call import Bounds
from app.routing.routes import Router
from app.settings import Settings
from app.storage.events import append_events
from app.storage.ledger import BudgetEvent
from app.storage.policy import PolicyReader
from app.storage.redis import RedisDown, RedisStore
from app.storage.usage import append_ledger
from app.types import Reply, Request
from app.wiring import (
    admin_services,
    admission_config,
    base_models,
    cache_config,
    last_known,
    local_share,
    price_list,
    tokens,
    training_services,
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
    folder = data_folder(settings)
    metrics = Metrics(trace_id=current_trace_id)
    async with AsyncExitStack() as stack:
        stores = await open_stores(stack, settings, folder, metrics)
        way = await _open_way(stack, settings, folder, metrics, stores)
        objects = await stack.enter_async_context(open_objects(settings.training, folder / "objects"))
        forgetter = Forgetter(stores.redis, stores.policy.tenant_ids)
        promises = Promises(stores.redis, lambda tenant_id: stores.policy.current().cached_by_meaning(tenant_id))
        admin = replace(
            admin_services(settings, folder, stores.sql, stores.announcements, way.flusher, forgetter, promises),
            hash_user=way.hash_user,
            seal=stores.sealer.seal,
            pools=way.placement.status,
        )
        webhooks = await stack.enter_async_context(
            public_client(timeout_seconds=settings.webhooks.timeout_seconds, allow_private=admin.private_webhooks)
        )
        background.start(stack, background.of_the_way(stores, way.flusher, way.placement))
        background.start(stack, background.of_the_stores(settings, metrics, stores, admin, objects, webhooks))
        needed, useful = _checks(settings, stores, way.placement)
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
            needed=needed,
            useful=useful,
        )


@dataclass(frozen=True, slots=True)
class _Way:
    """The request's way, built: its entrance, and those of its stages that others must reach."""

    answer: Idempotency
    identity: Identity
    placement: ReplicaPlacement
    flusher: Flusher
    hash_user: Callable[[str, str], str]


async def _open_way(stack: AsyncExitStack, settings: Settings, folder: Path, metrics: Metrics, stores: Stores) -> _Way:
    embedder = await own_embedder(stack, settings, folder)
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
    cache = _cache(settings, metrics, stores, await cache_embedder(stack, settings, embedder))
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
        pools=placement.status,
    )
    way = Idempotency(stores.redis, identity.principal, partial(answer, stages))
    stack.push_async_callback(_flush_last, flusher)
    stack.push_async_callback(admission.drain)
    stack.push_async_callback(way.drain)
    stack.push_async_callback(cache.drain)
    return _Way(way, identity, placement, flusher, hash_user)


async def _write_events(
    engine: AsyncEngine, metrics: Metrics, tenant: str, events: Sequence[tuple[str, BudgetEvent]]
) -> None:
    """Of several gateways that read an event one writes it down, and counts it."""
    for event in await append_events(engine, tenant, events):
        metrics.budget_event(event.event, event.limit)


def _placement(settings: Settings, metrics: Metrics, policy: PolicyReader, health: Health) -> ReplicaPlacement:
    return ReplicaPlacement(
        settings.all_providers(),
        settings.all_pools(),
        breakers=health,
        served=policy.served,
        reports=PlacementReports(metrics.adapter, metrics.placed),
    )


def _admission(
    settings: Settings, metrics: Metrics, stores: Stores, flusher: Flusher, hash_user: Callable[[str, str], str]
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


def _cache(settings: Settings, metrics: Metrics, stores: Stores, embedder: Embedder | None) -> AnswerCache:
    return AnswerCache(
        stores.redis,
        embedder,
        cache_config(settings),
        reports=Reports(metrics.guarded, metrics.compared, partial(metrics.fell_back, "cache")),
    )


def _flusher(stores: Stores, metrics: Metrics) -> Flusher:
    return Flusher(
        stores.redis,
        partial(append_ledger, stores.sql),
        stores.policy.tenant_ids,
        write_events=partial(_write_events, stores.sql, metrics),
        write_errors=(SQLAlchemyError, OSError),
        on_lost=metrics.lost,
    )


def new_request_id() -> str:
    """A request's name in headers, logs and ledger: 128 random bits."""
    return f"req_{secrets.token_hex(16)}"


def _counter(embedder: MiniLM | None) -> TokenCounter:
    return approximate_tokens if embedder is None else embedder.count_tokens


async def _flush_last(flusher: Flusher) -> None:
    try:
        await flusher.flush_once()
    except (RedisDown, ResponseError, SQLAlchemyError, OSError) as exc:
        _logger.warning("ledger_left_in_redis", error=type(exc).__name__, then="the next flusher brings it to SQL")


def _checks(
    settings: Settings, stores: Stores, placement: ReplicaPlacement
) -> tuple[dict[str, Check], dict[str, Check]]:
    """What every call needs, and what is only useful: Redis is needed where nothing is admitted without it."""
    needed: dict[str, Check] = {"policy": partial(_policy_is_fresh, stores.policy)}
    useful: dict[str, Check] = {"pools": placement.check}
    if settings.admission.without_redis == "refuse":
        needed["redis"] = partial(_redis_answers, stores.redis, "calls are refused")
    else:
        useful["redis"] = partial(_redis_answers, stores.redis, "calls are admitted by this gateway's share")
    return needed, useful


async def _redis_answers(store: RedisStore, meanwhile: str) -> str | None:
    try:
        await store.ping()
    except (RedisDown, ResponseError):
        return f"Redis does not answer: {meanwhile} (admission.without_redis)"
    return None


async def _policy_is_fresh(policy: PolicyReader) -> str | None:
    try:
        policy.current()
    except Unavailable:
        return f"keys and routes were last read {policy.age_seconds:.0f} s ago: SQL does not answer"
    return None
