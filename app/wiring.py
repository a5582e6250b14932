"""From settings to what the stages are built with: values, price lists, secrets, services. Opens and starts nothing."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path

import structlog
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from app.admission.local import LocalConfig, LocalShare
from app.admission.redis import AdmissionConfig
from app.api.admin.services import AdminServices
from app.api.fine_tuning.services import FileLimits, TrainingServices
from app.auth.fetch import key_set
from app.auth.identity import Identity
from app.auth.tokens import Tokens
from app.cache.cache import CacheConfig
from app.cache.forget import Forgetter
from app.cache.promises import Promises
from app.recording.flusher import Flusher
from app.routing.price_sources import PriceFile, PriceFileError, PublicPrices, is_listed, listed_provider
from app.routing.prices import PriceList
from app.settings import ObjectStoreSettings, Settings, SettingsError, Training
from app.storage.announcements import Announcements
from app.storage.base_shapes import BaseShapes
from app.storage.kept_secret import kept_secret
from app.storage.objects import Objects
from app.storage.policy import LastKnown, PolicyReader
from app.storage.s3 import S3
from app.storage.sealing import SealBroken, Sealer
from app.storage.signatures import Signers
from app.storage.tuning.jobs import Budget
from app.storage.tuning.leases import Terms

STALE_POLLS = 10  # a snapshot that has missed so many is the last known one, no longer the present one

_STORE_URL = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._-]+)*/?")
_logger = structlog.get_logger()


def admission_config(settings: Settings) -> AdmissionConfig:
    """How long and how much is held."""
    chosen = settings.admission
    return AdmissionConfig(
        chosen.lease_seconds, chosen.default_output_tokens, chosen.max_output_tokens, chosen.max_pending_charges
    )


def last_known(
    settings: Settings, policy: PolicyReader, part: str, on_fallback: Callable[[str, str, str], None]
) -> LastKnown:
    """The policy for this part of the gateway, which tells what it decides while SQL is away."""
    stale_seconds = STALE_POLLS * settings.policy_poll_seconds
    return LastKnown(policy, stale_seconds, lambda decision: on_fallback(part, decision, "sql"))


def tokens(settings: Settings, policy: LastKnown) -> Tokens | None:
    """Proof by token, or None where no issuer is trusted."""
    issuers = [issuer.value() for issuer in settings.identity.issuers]
    return Tokens(issuers, policy.current, key_set) if issuers else None


def unsealed(sealer: Sealer, sealed: bytes, place: tuple[str, ...]) -> str:
    """A provider key, or the empty one that the router refuses by: never the gateway's own key instead."""
    try:
        return sealer.open(sealed, place)
    except SealBroken:
        _logger.error("provider_key_not_opened", tenant=place[0], provider=place[-1])  # noqa: TRY400 - says it all
        return ""


def local_share(settings: Settings) -> LocalShare | None:
    """What this gateway may admit by itself while Redis is away, or None to refuse."""
    chosen = settings.admission
    if chosen.without_redis == "refuse":
        return None
    return LocalShare(LocalConfig(chosen.gateways, chosen.allowance_microusd))


def cache_config(settings: Settings) -> CacheConfig:
    """The cache's bounds."""
    chosen = settings.cache
    return CacheConfig(
        max_scopes=chosen.max_scopes,
        max_entries_per_scope=chosen.max_entries_per_scope,
        max_entries_per_tenant=chosen.max_entries_per_tenant,
        max_answer_bytes=chosen.max_answer_bytes,
        every_caller_pays=chosen.coalesced_callers_pay == "each",
        refuses_when_away=chosen.when_away == "refuse",
    )


def price_list(settings: Settings) -> PriceList:
    """Every source of prices in its order; raises SettingsError for a file or a name that cannot be used."""
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


def base_models(settings: Settings) -> dict[str, str]:
    """The served base model of each pool."""
    return {name: pool.base_model for name, pool in settings.all_pools().items()}


def user_hasher(settings: Settings, folder: Path) -> Callable[[str, str], str]:
    """Users appear in the ledger as a keyed hash only: equal within a tenant, meaningless elsewhere."""
    given = settings.user_hash_key
    key = (given.get_secret_value() if given else kept_secret(folder, "user.key")).encode()

    def hashed(tenant_id: str, user: str) -> str:
        return hmac.new(key, f"{len(tenant_id)}:{tenant_id}{user}".encode(), hashlib.sha256).hexdigest()

    return hashed


def admin_services(
    settings: Settings,
    folder: Path,
    engine: AsyncEngine,
    announcements: Announcements,
    flusher: Flusher,
    forgetter: Forgetter,
    promises: Promises,
) -> AdminServices:
    """What the admin API works with."""
    return AdminServices(
        admin_key=secret_of(settings.admin_key, folder, "admin.key"),
        engine=engine,
        artifacts=folder / "objects",
        base_models=base_models(settings),
        providers=frozenset(settings.all_providers()),
        prices=price_list(settings),
        changed=announcements.changed,
        flush=flusher.flush_once,
        forget_answers=forgetter.forget,
        promises=promises,
        signers=_signers(settings),
        s3=s3_of(settings.adapters.s3),
        bases={name: BaseShapes.read(base.config_file) for name, base in settings.adapters.bases.items()},
        webhook_key=secret_of(settings.webhook_key, folder, "webhook.key"),
        private_webhooks=settings.webhooks.allow_private_networks,
    )


def training_services(
    settings: Settings,
    folder: Path,
    admin: AdminServices,
    authenticator: Identity,
    policy: PolicyReader,
    objects: Objects,
) -> TrainingServices:
    """What the fine-tuning and training APIs work with."""
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
        trainer_secret=secret_of(settings.trainer_secret, folder, "trainer.key"),
        terms=terms(settings),
        limits=FileLimits(chosen.max_file_bytes, chosen.max_stored_bytes, chosen.max_artifact_bytes),
        budget=budget,
        providers=frozenset(provider.name for provider in settings.providers if provider.fine_tuning),
    )


def terms(settings: Settings) -> Terms:
    """How long a training job is leased, and how often."""
    return Terms(settings.training.lease_seconds, settings.training.max_attempts)


def secret_of(given: SecretStr | None, folder: Path, name: str) -> str:
    """The secret that was given, else the installation's own in this file."""
    return given.get_secret_value() if given else kept_secret(folder, name)


def bucket_of(chosen: Training) -> tuple[str, S3] | None:
    """The bucket of files and blobs as `s3://bucket/folder`, and its key; None is the data folder.

    Raises SettingsError for an address that is none, and for one without its key.
    """
    if chosen.store_url is None:
        return None
    if _STORE_URL.fullmatch(chosen.store_url) is None:
        raise SettingsError("training.store_url: expected s3://bucket/folder of letters, digits, `.`, `_` and `-`")
    s3 = s3_of(chosen.s3)
    if s3 is None:
        raise SettingsError("training.store_url needs the bucket's key: set training.s3.access_key and .signing_key")
    return chosen.store_url, s3


def s3_of(store: ObjectStoreSettings) -> S3 | None:
    """The store and its key; None without one."""
    if store.access_key is None:
        return None
    return S3(store.endpoint, store.region, store.access_key, store.signing_key.get_secret_value())


def _signers(settings: Settings) -> Signers:
    keys = {name: bytes.fromhex(signer.public_key) for name, signer in settings.adapters.signers.items()}
    return Signers(keys, settings.adapters.require_signature)
