"""Brings the ledger from Redis to SQL: every entry and every budget event once, whatever dies in between.

Each tenant's stream is read from its start, written with inserts that ignore what SQL already has, and only then are
exactly those stream entries deleted. A flusher killed after the insert re-reads what it wrote and changes nothing; two
flushers at once do the same work twice to the same end. While SQL is away the entries wait in Redis. An entry that
cannot be read is set aside in a stream of its own, never dropped. `on_lost` is told of leases that ran out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog
from redis.exceptions import ResponseError

from app.storage.ledger import BudgetEvent, decode, decode_event, entry_id, stream_key, unreadable_key
from app.storage.redis import RedisDown, RedisStore
from app.types import LedgerEntry, Outcome

BATCH = 500
TOGETHER = 8  # streams read at once: the replies share the connection of the request path
ALL_SECONDS = 10.0  # what other gateways left behind is found within it
Write = Callable[[Sequence[tuple[str, LedgerEntry]]], Awaitable[None]]
WriteEvents = Callable[[str, Sequence[tuple[str, BudgetEvent]]], Awaitable[object]]
_logger = structlog.get_logger()


async def _no_events(_tenant: str, _events: Sequence[tuple[str, BudgetEvent]]) -> None:
    """For those who keep no events."""


@dataclass(slots=True)
class _Batch:
    """The oldest part of one tenant's stream."""

    ids: list[bytes] = field(default_factory=list)
    entries: list[LedgerEntry] = field(default_factory=list)
    events: list[BudgetEvent] = field(default_factory=list)
    unreadable: list[Any] = field(default_factory=list)

    def add(self, stream_id: bytes, kind: bytes, payload: bytes) -> None:
        self.ids.append(stream_id)
        try:
            if kind == b"e":
                self.entries.append(decode(payload))
            else:
                self.events.append(decode_event(payload))
        except msgspec.DecodeError as exc:
            _logger.error("ledger_entry_unreadable", stream_id=stream_id.decode(), error=str(exc))  # noqa: TRY400
            self.unreadable += [kind, payload]


class Flusher:
    """One flusher per gateway process; any number may run."""

    def __init__(
        self,
        store: RedisStore,
        write: Write,
        tenants: Callable[[], Sequence[str]],
        *,
        write_events: WriteEvents = _no_events,
        interval_seconds: float = 0.5,
        write_errors: tuple[type[Exception], ...] = (OSError,),
        on_lost: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._write = write
        self._write_events = write_events
        self._tenants = tenants
        self._interval = interval_seconds
        self._on_lost = on_lost
        self._outages: tuple[type[Exception], ...] = (RedisDown, ResponseError, *write_errors)
        self._active: set[str] = set()
        self.backlog_entries = 0  # still in Redis when the last round ended

    def settled(self, tenant: str) -> None:
        """Something was written to this tenant's stream here: it is looked at in the next round."""
        self._active.add(tenant)

    async def run(self) -> None:
        """Flush for ever, active tenants each round and all of them now and then; an outage is waited out."""
        all_due = 0.0
        while True:
            now, active = asyncio.get_running_loop().time(), self._active
            self._active = set()
            try:
                if now >= all_due:
                    await self.flush_once()
                    all_due = now + ALL_SECONDS
                else:
                    await self._flush(sorted(active))
            except self._outages as exc:
                _logger.warning("ledger_waits", error=type(exc).__name__)
                all_due = 0.0
                await self._count_backlog()
            await asyncio.sleep(self._interval)

    async def flush_once(self) -> int:
        """Bring over everything that is there now; returns how much it was. Raises what the stores raise."""
        return await self._flush(list(self._tenants()))

    async def _flush(self, tenants: Sequence[str]) -> int:
        flushed = 0
        for start in range(0, len(tenants), TOGETHER):
            group = list(tenants[start : start + TOGETHER])
            while group:
                batches = await asyncio.gather(*(self._read(tenant) for tenant in group))
                for tenant, batch in zip(group, batches, strict=True):
                    await self._bring_over(tenant, batch)
                    flushed += len(batch.ids)
                group = [name for name, batch in zip(group, batches, strict=True) if len(batch.ids) == BATCH]
        self.backlog_entries = 0
        return flushed

    async def _count_backlog(self) -> None:
        with suppress(RedisDown, ResponseError):
            lengths = await asyncio.gather(*(self._store.command("XLEN", stream_key(it)) for it in self._tenants()))
            self.backlog_entries = sum(lengths)

    async def _bring_over(self, tenant: str, batch: _Batch) -> None:
        if batch.entries:
            await self._write([(entry_id(entry), entry) for entry in batch.entries])
        if batch.events:
            await self._write_events(tenant, [(event.id(tenant), event) for event in batch.events])
        if batch.unreadable:
            await self._store.command("XADD", unreadable_key(tenant), "*", *batch.unreadable)
        if batch.ids and await self._store.command("XDEL", stream_key(tenant), *batch.ids):
            self._on_lost(sum(entry.outcome is Outcome.LOST for entry in batch.entries))

    async def _read(self, tenant: str) -> _Batch:
        batch = _Batch()
        rows = await self._store.command("XRANGE", stream_key(tenant), "-", "+", "COUNT", BATCH)
        for stream_id, (kind, payload) in rows:
            batch.add(stream_id, kind, payload)
        return batch
