"""What the admin API works with: built in `lifespan.py`, held as `app.state.admin`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from redis.exceptions import ResponseError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.cache.forget import Selection
from app.cache.promises import Promises
from app.errors import Unavailable
from app.routing.prices import PriceList
from app.storage.administration import audit
from app.storage.administration.audit import AuditEntry
from app.storage.administration.change import Change, Row, changing, outage, reading
from app.storage.base_shapes import BaseShapes
from app.storage.redis import RedisDown
from app.storage.s3 import S3
from app.storage.signatures import Signers
from app.types import PoolStatus

ADMIN = "admin key"  # who changes things here: whoever holds the one admin secret


def _no_master_key(_secret: str, _place: tuple[str, ...]) -> bytes:
    raise Unavailable("This gateway has no master key to seal provider keys with.", retry_after_seconds=60)


@dataclass(frozen=True, slots=True)
class AdminServices:
    """The secret that opens the API, the stores behind it, and what routes may name.

    `artifacts` is the folder under which adapters are kept; every replica must be able to read it. `base_models` gives
    the served base model of each pool. `changed` is awaited after each committed change, to tell every gateway of it.
    `signers` says whose signatures are trusted, `bases` which base models adapters must fit (none known: all do).
    `flush` brings the ledger to SQL and raises RedisDown while it cannot; so do `forget_answers` and `promises`, the
    cache's, while Redis is away.
    """

    admin_key: str = field(repr=False)
    engine: AsyncEngine
    artifacts: Path
    base_models: Mapping[str, str]
    providers: frozenset[str]
    prices: PriceList
    changed: Callable[[], Awaitable[None]]
    flush: Callable[[], Awaitable[object]]
    forget_answers: Callable[[Selection], Awaitable[int]]
    promises: Promises
    hash_user: Callable[[str, str], str] = lambda _tenant, user: user
    seal: Callable[[str, tuple[str, ...]], bytes] = _no_master_key
    webhook_key: str = field(default="", repr=False)
    private_webhooks: bool = False
    embedded_models: frozenset[str] = frozenset({"minilm"})
    signers: Signers = field(default_factory=Signers)
    bases: Mapping[str, BaseShapes] = field(default_factory=dict)
    s3: S3 | None = None
    pools: Callable[[], Sequence[PoolStatus]] = tuple

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A connection to look things up by."""
        return reading(self.engine)

    @asynccontextmanager
    async def change(self) -> AsyncIterator[Change]:
        """One change; when it is committed, every gateway is told."""
        async with changing(self.engine) as change:
            yield change
            await audit.record(change.connection, change.revision, at=change.now, who=ADMIN)
        with suppress(Unavailable), outage():  # the change stands; gateways that are not told find it by polling
            await self.changed()

    async def note(self, change: Change, about: str, before: Row | None, after: Row) -> None:
        """Let the audit log say what this change does to something that has no row in SQL."""
        entry = AuditEntry(change.revision, about, change.now, ADMIN, before, after)
        await audit.note(change.connection, entry)

    async def flushed(self) -> bool:
        """Bring the ledger to SQL; False when Redis holds entries that cannot be read now."""
        try:
            with outage():
                await self.flush()
        except (RedisDown, ResponseError):
            return False
        return True
