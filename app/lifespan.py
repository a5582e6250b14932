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
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import structlog
from pydantic import SecretStr
from redis.exceptions import ResponseError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.admission.idempotency import Idempotency
from app.admission.local import LocalConfig, LocalShare
from app.admission.pricing import cost_microusd
from app.admission.redis import AdmissionConfig, RedisAdmission
from app.api.admin.services import AdminServices
from app.api.fine_tuning.services import FileLimits, TrainingServices
from app.auth.api_keys import Authenticator
from app.auth.fetch import key_set
from app.auth.identity import Identity
from app.auth.tokens import Tokens
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
from app.interfaces import Embedder, TokenCounter
from app.observability.correlation import current_trace_id
from app.observability.metrics import Metrics
from app.observability.tracing import NoTracing, Tracing, tracing
from app.pipeline import Stages, answer
from app.placement.placement import ReplicaPlacement
from app.recording.egress import public_client
from app.recording.flusher import Flusher
from app.recording.recorder import Recorder
from app.recording.webhooks import Deliverer
from app.routing.call import Bounds
from app.routing.price_sources import PriceFile, PriceFileError, PublicPrices, is_listed, listed_provider
from app.routing.prices import PriceList
from app.routing.routes import Router
from app.settings import Settings, SettingsError
from app.storage.announcements import Announcements
from app.storage.base_shapes import BaseShapes
from app.storage.database import database
from app.storage.embedded_redis import embedded_redis
from app.storage.events import append_events
from app.storage.janitor import Janitor
from app.storage.kept_secret import kept_secret
from app.storage.ledger import BudgetEvent
from app.storage.objects import LocalObjects
from app.storage.policy import PolicyReader
from app.storage.redis import RedisDown, RedisStore
from app.storage.s3 import S3
from app.storage.sealing import SealBroken, Sealer
from app.storage.signatures import Signers
from app.storage.tuning.jobs import Budget
from app.storage.tuning.leases import Terms
from app.storage.tuning.sweeper import Sweeper
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
        telemetry = settings.telemetry
        traces = await stack.enter_async_context(
            tracing(telemetry.otlp_endpoint, telemetry.trace_sample_ratio, count=metrics.spans)
        )
        store = await stack.enter_async_context(_redis(settings, folder, metrics))
        engine = await stack.enter_async_context(_sql(settings, folder))
        embedder = await _embedder(stack, settings, folder)
        sealer = Sealer.of(_secret(settings.identity.master_key, folder, "master.key"))
        policy = PolicyReader(
            engine,
            poll_seconds=settings.policy_poll_seconds,
            max_age_seconds=settings.policy_max_age_seconds,
            unseal=partial(_unseal, sealer),
        )
        await policy.refresh()
        announcements = Announcements(store, policy, poll_seconds=settings.policy_poll_seconds)
        authenticator = Identity(
            Authenticator(policy, newer=announcements.newer),
            _tokens(settings, policy),
            settings.identity.own_provider_keys,
        )
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
        hash_user = _user_hasher(settings, folder)
        flusher = Flusher(
            store,
            partial(append_ledger, engine),
            policy.tenant_ids,
            write_events=partial(_write_events, engine, metrics),
            write_errors=(SQLAlchemyError, OSError),
            on_lost=metrics.lost,
        )
        admission = RedisAdmission(
            store,
            _admission(settings),
            on_refusal=metrics.refused,
            hash_user=hash_user,
            local=_local(settings),
            on_outage=metrics.decided_without_redis,
            on_settled=flusher.settled,
        )
        cache = AnswerCache(
            store,
            await _cache_embedder(stack, settings, embedder),
            _cache(settings),
            on_refusal=metrics.guarded,
            on_compared=metrics.compared,
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
        objects = LocalObjects(folder / "objects")
        webhooks = await stack.enter_async_context(
            public_client(
                timeout_seconds=settings.webhooks.timeout_seconds,
                allow_private=settings.webhooks.allow_private_networks,
            )
        )
        admin = replace(
            _admin(settings, folder, engine, announcements, flusher, Forgetter(store, policy.tenant_ids)),
            hash_user=hash_user,
            seal=sealer.seal,
            pools=placement.status,
        )
        idempotency = Idempotency(store, authenticator.principal, partial(answer, stages))
        stack.push_async_callback(_flush_last, flusher)
        stack.push_async_callback(admission.drain)
        stack.push_async_callback(idempotency.drain)
        stack.push_async_callback(cache.drain)
        for loop in (
            policy.run(),
            Janitor(engine, folder / "objects", horizon_seconds=settings.adapters.files_horizon_seconds).run(),
            announcements.listen(),
            placement.gossip.tell(store, (RedisDown, ResponseError)),
            placement.gossip.listen(store),
            flusher.run(),
            placement.run(),
            _sweep(admission, policy, metrics),
            Sweeper(engine, objects, _terms(settings)).run(),
            Deliverer(engine, webhooks, admin.webhook_key, allow_private=admin.private_webhooks).run(),
        ):
            stack.push_async_callback(_stopped, asyncio.create_task(loop))
        yield Gateway(
            settings=settings,
            answer=idempotency,
            authenticator=authenticator,
            tracing=traces,
            policy=policy,
            admin=admin,
            training=_training(settings, folder, admin, authenticator, policy, objects),
            metrics=metrics,
            needed={"redis": partial(_redis_answers, store), "policy": partial(_policy_is_fresh, policy)},
            useful={"pools": placement.check},
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


def _tokens(settings: Settings, policy: PolicyReader) -> Tokens | None:
    issuers = [issuer.value() for issuer in settings.identity.issuers]
    return Tokens(issuers, policy.current, key_set) if issuers else None


def _unseal(sealer: Sealer, sealed: bytes, place: tuple[str, ...]) -> str:
    """A provider key, or the empty one that the router refuses by: never the gateway's own key instead."""
    try:
        return sealer.open(sealed, place)
    except SealBroken:
        _logger.error("provider_key_not_opened", tenant=place[0], provider=place[-1])  # noqa: TRY400 - says it all
        return ""


def _local(settings: Settings) -> LocalShare | None:
    chosen = settings.admission
    if chosen.without_redis == "refuse":
        return None
    return LocalShare(LocalConfig(chosen.gateways, chosen.allowance_microusd))


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
    changes = {
        name: sorted(((change.instant(), change.value()) for change in price.changes), key=itemgetter(0))
        for name, price in prices.models.items()
    }
    try:
        file = PriceFile({}) if prices.file is None else PriceFile.read(prices.file)
    except PriceFileError as exc:
        raise SettingsError(str(exc)) from exc
    return PriceList(
        {name: price.value() for name, price in prices.models.items()},
        prices.default.value() if prices.unknown == "default" else None,
        changes=changes,
        files=file,
        public=PublicPrices(_priced_as(settings) if prices.public else {}),
    )


def _priced_as(settings: Settings) -> dict[str, str]:
    """By which provider of the public list each of ours is known."""
    chosen = {provider.name: provider.priced_as for provider in settings.providers}
    found = {
        name: chosen.get(name) or listed_provider(provider.base_url)
        for name, provider in settings.all_providers().items()
    }
    unknown = sorted(name for name in chosen.values() if name is not None and not is_listed(name))
    if unknown:
        raise SettingsError(f"providers: priced_as: the public price list has no provider '{unknown[0]}'")
    return {name: listed for name, listed in found.items() if listed is not None}


def _base_models(settings: Settings) -> dict[str, str]:
    return {name: pool.base_model for name, pool in settings.all_pools().items()}


def _user_hasher(settings: Settings, folder: Path) -> Callable[[str, str], str]:
    """Users appear in the ledger as a keyed hash only: equal within a tenant, meaningless elsewhere."""
    given = settings.user_hash_key
    key = (given.get_secret_value() if given else kept_secret(folder, "user.key")).encode()

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
    return AdminServices(
        admin_key=_secret(settings.admin_key, folder, "admin.key"),
        engine=engine,
        artifacts=folder / "objects",
        base_models=_base_models(settings),
        providers=frozenset(settings.all_providers()),
        prices=_prices(settings),
        changed=announcements.changed,
        flush=flusher.flush_once,
        forget_answers=forgetter.forget,
        signers=_signers(settings),
        s3=_s3(settings),
        bases={name: BaseShapes.read(base.config_file) for name, base in settings.adapters.bases.items()},
        webhook_key=_secret(settings.webhook_key, folder, "webhook.key"),
        private_webhooks=settings.webhooks.allow_private_networks,
    )


def _training(
    settings: Settings,
    folder: Path,
    admin: AdminServices,
    authenticator: Identity,
    policy: PolicyReader,
    objects: LocalObjects,
) -> TrainingServices:
    chosen = settings.training

    def budget(tenant_id: str) -> Budget:
        return Budget(**chosen.tenants.get(tenant_id, chosen.budget).model_dump())

    return TrainingServices(
        admin=admin,
        authenticate=authenticator.principal,
        policy=policy.current,
        refresh=policy.refresh,
        objects=objects,
        pools=settings.all_pools(),
        trainer_secret=_secret(settings.trainer_secret, folder, "trainer.key"),
        terms=_terms(settings),
        limits=FileLimits(chosen.max_file_bytes, chosen.max_stored_bytes, chosen.max_artifact_bytes),
        budget=budget,
        providers=frozenset(provider.name for provider in settings.providers if provider.fine_tuning),
    )


def _terms(settings: Settings) -> Terms:
    return Terms(settings.training.lease_seconds, settings.training.max_attempts)


def _secret(given: SecretStr | None, folder: Path, name: str) -> str:
    return given.get_secret_value() if given else kept_secret(folder, name)


def _s3(settings: Settings) -> S3 | None:
    store = settings.adapters.s3
    if store.access_key is None:
        return None
    return S3(store.endpoint, store.region, store.access_key, store.signing_key.get_secret_value())


def _signers(settings: Settings) -> Signers:
    keys = {name: bytes.fromhex(signer.public_key) for name, signer in settings.adapters.signers.items()}
    return Signers(keys, settings.adapters.require_signature)


async def _write_events(
    engine: AsyncEngine, metrics: Metrics, tenant: str, events: Sequence[tuple[str, BudgetEvent]]
) -> None:
    """Of several gateways that read an event one writes it down, and counts it."""
    for event in await append_events(engine, tenant, events):
        metrics.budget_event(event.event, event.limit)


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
