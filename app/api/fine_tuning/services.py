"""What files, fine-tuning and the training API work with: built in `lifespan.py`, held as `app.state.training`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncConnection

from app.api.admin.services import AdminServices
from app.api.fine_tuning.uploads import Uploads
from app.errors import Unavailable
from app.interfaces import Policy
from app.observability.training import TrainingMetrics
from app.storage.administration import audit
from app.storage.administration.change import Change, changing, outage, reading
from app.storage.objects import Objects
from app.storage.tuning.jobs import Budget
from app.storage.tuning.leases import Terms
from app.types import Pool, Principal

TRAINER = "trainer"  # who changes routes and adapters here: whoever holds the trainer secret
Authenticate = Callable[[Mapping[bytes, bytes]], Awaitable[Principal]]


@dataclass(frozen=True, slots=True)
class FileLimits:
    """How large things may be, in bytes."""

    max_file_bytes: int
    max_stored_bytes: int  # of one tenant
    max_artifact_bytes: int


@dataclass(frozen=True, slots=True)
class TrainingServices:
    """The stores behind files and jobs, who may call, and what a tenant may use.

    `refresh` reads what the policy has missed. `admin` registers what was trained. `providers` are those whose
    fine-tuning API a trainer of this installation runs.
    """

    admin: AdminServices
    authenticate: Authenticate
    policy: Callable[[], Policy]
    refresh: Callable[[], Awaitable[None]]
    objects: Objects
    pools: Mapping[str, Pool]
    trainer_secret: str = field(repr=False)
    terms: Terms
    limits: FileLimits
    budget: Callable[[str], Budget]
    providers: frozenset[str] = frozenset()
    clock: Callable[[], float] = time.time
    uploads: Uploads = field(default_factory=Uploads)
    metrics: TrainingMetrics = field(default_factory=lambda: TrainingMetrics(CollectorRegistry()))

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A connection to look things up by."""
        return reading(self.admin.engine)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """One transaction; raises Unavailable while SQL is away."""
        with outage():
            async with self.admin.engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def change(self) -> AsyncIterator[Change]:
        """One change of what is served; when it is committed, every gateway is told."""
        async with changing(self.admin.engine) as change:
            yield change
            await audit.record(change.connection, change.revision, at=change.now, who=TRAINER)
        with suppress(Unavailable), outage():  # the change stands; gateways that are not told find it by polling
            await self.admin.changed()
