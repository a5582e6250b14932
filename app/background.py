"""What runs beside requests until the end: readers of the policy and of gossip, flusher, sweepers, deliveries, surveys.

Each loop waits out the outages of its stores by itself; all are cancelled, and awaited, when the stack closes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

import structlog
from aiohttp import ClientSession
from redis.exceptions import ResponseError

from app.admission.leases import Leases
from app.api.admin.services import AdminServices
from app.observability.metrics import Metrics
from app.opening import Stores
from app.placement.placement import ReplicaPlacement
from app.recording.flusher import Flusher
from app.recording.survey import Survey
from app.recording.webhooks import Deliverer
from app.settings import Settings
from app.storage.janitor import Janitor
from app.storage.objects import Objects
from app.storage.policy import PolicyReader
from app.storage.redis import RedisDown
from app.storage.tuning.leases import TRAINER_LOST, Expired
from app.storage.tuning.sweeper import Sweeper
from app.wiring import terms

SWEEP_SECONDS = 5.0

Loop = Coroutine[Any, Any, None]
_logger = structlog.get_logger()


def start(stack: AsyncExitStack, loops: Iterable[Loop]) -> None:
    """Run these until the stack closes."""
    for loop in loops:
        stack.push_async_callback(_stopped, asyncio.create_task(loop))


def of_the_way(stores: Stores, flusher: Flusher, placement: ReplicaPlacement) -> tuple[Loop, ...]:
    """What keeps the stages of the request's way up to date."""
    return (
        stores.policy.run(),
        stores.announcements.listen(),
        flusher.run(),
        placement.run(),
        placement.gossip.tell(stores.redis, (RedisDown, ResponseError)),
        placement.gossip.listen(stores.redis),
    )


def of_the_stores(
    settings: Settings,
    metrics: Metrics,
    stores: Stores,
    admin: AdminServices,
    objects: Objects,
    webhooks: ClientSession,
) -> tuple[Loop, ...]:
    """What charges, cleans, delivers and surveys what requests and trainers leave behind."""
    survey = Survey(stores.sql, admin.promises.census)
    metrics.watch(surveyed=lambda: survey.seen)
    deliverer = Deliverer(
        stores.sql, webhooks, admin.webhook_key, allow_private=admin.private_webhooks, count=metrics.webhook
    )
    return (
        _sweep(Leases(stores.redis, lease_seconds=settings.admission.lease_seconds), stores.policy),
        Janitor(stores.sql, admin.artifacts, horizon_seconds=settings.adapters.files_horizon_seconds).run(),
        Sweeper(stores.sql, objects, terms(settings), on_expired=partial(_count_expired, metrics)).run(),
        deliverer.run(),
        survey.run(),
    )


def _count_expired(metrics: Metrics, expired: Expired) -> None:
    metrics.training.lost(expired.lost)
    metrics.training.ended("failed", TRAINER_LOST, jobs=expired.failed)
    metrics.training.ended("cancelled", jobs=expired.cancelled)


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
