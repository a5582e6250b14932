"""The one place that knows concrete classes: opens every resource in order, wires the stages, closes all in reverse.

Nothing here decides anything about a request. What is opened is opened with `async with`, so a failure half-way leaves
nothing behind, and a stop settles what runs, flushes the ledger and only then lets go of the stores.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from app.admission.pricing import cost_microusd
from app.admission.redis import AdmissionConfig, RedisAdmission
from app.api.admin.services import AdminServices
from app.auth.api_keys import Authenticator
from app.backends.embedded import EmbeddedBackend
from app.backends.failover import Failover
from app.backends.provider import HttpBackend
from app.backends.reply import Replier
from app.cache.cache import AnswerCache, CacheConfig
from app.cache.embedder import MiniLM
from app.interfaces import Record, Upstream
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
from app.types import Call, Choice, Endpoint, Reply, Request, Target

POLICY_CHANNEL = "tg:policy"
POLICY_REVISION = "tg:policy:revision"


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway, without its HTTP server."""

    settings: Settings
    answer: Callable[[Request], AbstractAsyncContextManager[Reply]]
    authenticator: Authenticator
    policy: PolicyReader
    admin: AdminServices
    metrics: Metrics
    checks: dict[str, Callable[[], Awaitable[str | None]]]


def count_tokens(text: str) -> int:
    """A rough count for answers whose upstream did not count: four bytes a token, never less than one."""
    return max(1, len(text.encode()) // 4)
