"""A flusher as a process of its own, to be killed: `python -m tests.recording.flushing REDIS_URL SQL_URL TENANT…`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from functools import partial

from app.recording.flusher import Flusher
from app.storage.database import database
from app.storage.redis import RedisStore
from app.storage.usage import append_ledger


async def main(redis_url: str, database_url: str, tenants: Sequence[str]) -> None:
    """Flush for ever; says so when it begins."""
    async with RedisStore.connect(redis_url, operation_timeout_seconds=5) as store, database(database_url) as engine:
        print("flushing", flush=True)
        await Flusher(store, partial(append_ledger, engine), lambda: tenants, interval_seconds=0.01).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
