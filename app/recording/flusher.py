"""Brings the ledger from Redis to SQL: every entry once, whatever dies in between.

Each tenant's stream is read from its start, written with an insert that ignores entries SQL already has, and only then
are exactly those stream entries deleted. A flusher killed after the insert re-reads what it wrote and changes nothing;
two flushers at once do the same work twice to the same end. While SQL is away the entries wait in Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog

from app.storage.ledger import decode, entry_id, stream_key
from app.storage.redis import RedisDown, RedisStore
from app.types import LedgerEntry

BATCH = 500
Write = Callable[[Sequence[tuple[str, LedgerEntry]]], Awaitable[None]]
_logger = structlog.get_logger()


class Flusher:
    """One flusher per gateway process; any number may run."""

    def __init__(
        self,
        store: RedisStore,
        write: Write,
        tenants: Callable[[], Sequence[str]],
        *,
        interval_seconds: float = 0.5,
        write_errors: tuple[type[Exception], ...] = (OSError,),
    ) -> None:
        self._store = store
        self._write = write
        self._tenants = tenants
        self._interval = interval_seconds
        self._outages: tuple[type[Exception], ...] = (RedisDown, *write_errors)

    async def run(self) -> None:
        """Flush for ever; an outage of either store is waited out."""
        while True:
            try:
                await self.flush_once()
            except self._outages as exc:
                _logger.warning("ledger_waits", error=type(exc).__name__)
            await asyncio.sleep(self._interval)

    async def flush_once(self) -> int:
        """Bring over everything that is there now; returns the number of entries. Raises what the stores raise."""
        flushed = 0
        tenants = list(self._tenants())
        while tenants:
            batches = await asyncio.gather(*(self._read(tenant) for tenant in tenants))
            for tenant, (ids, entries) in zip(tenants, batches, strict=True):
                if entries:
                    await self._write([(entry_id(entry), entry) for entry in entries])
                if ids:
                    await self._store.command("XDEL", stream_key(tenant), *ids)
                    flushed += len(ids)
            tenants = [tenant for tenant, (ids, _) in zip(tenants, batches, strict=True) if len(ids) == BATCH]
        return flushed

    async def _read(self, tenant: str) -> tuple[list[bytes], list[LedgerEntry]]:
        rows = await self._store.command("XRANGE", stream_key(tenant), "-", "+", "COUNT", BATCH)
        ids, entries = [], []
        for stream_id, fields in rows:
            payload = fields[b"e"] if isinstance(fields, dict) else fields[fields.index(b"e") + 1]
            ids.append(stream_id)
            try:
                entries.append(decode(payload))
            except msgspec.DecodeError:
                _logger.exception("ledger_entry_unreadable", tenant=tenant, stream_id=stream_id.decode())
        return ids, entries
