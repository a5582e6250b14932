"""What time ends: leases of lost trainers, files past their date, bytes that nobody names any more."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Collection

import structlog
from sqlalchemy import Column, ColumnElement, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.errors import Unavailable
from app.storage.objects import Objects
from app.storage.objects.staging import STALE_SECONDS
from app.storage.tables import files as files_table
from app.storage.tables import fine_tuning_jobs as jobs
from app.storage.tuning import files, leases
from app.storage.tuning.leases import Expired, Terms
from app.storage.tuning.status import OPEN

TIDY_EVERY = 720  # rounds, an hour, between two looks at everything in the object store: a bucket is listed whole
AT_ONCE = 10_000  # names in one statement: asyncpg takes 32,767 parameters, a usual SQLite 32,766
_logger = structlog.get_logger()


class Sweeper:
    """One per gateway process; any number may run."""

    def __init__(
        self,
        engine: AsyncEngine,
        objects: Objects,
        terms: Terms,
        *,
        every_seconds: float = 5.0,
        clock: Callable[[], float] = time.time,
        on_expired: Callable[[Expired], None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._objects = objects
        self._terms = terms
        self._every = every_seconds
        self._clock = clock
        self._on_expired = on_expired

    async def run(self) -> None:
        """Sweep for ever; an outage is waited out."""
        for number in itertools.count():
            try:
                await self.sweep()
                if number % TIDY_EVERY == 0:
                    await self.tidy()
            except (Unavailable, SQLAlchemyError, OSError) as exc:
                _logger.warning("training_not_swept", error=type(exc).__name__)
            await asyncio.sleep(self._every)

    async def sweep(self) -> None:
        """End the leases of lost trainers, and remove files past their date."""
        now = self._clock()
        async with self._engine.begin() as connection:
            expired = await leases.expire(connection, self._terms, now=now)
        self._on_expired(expired)
        if expired.failed:
            _logger.warning("jobs_given_up", jobs=expired.failed)
        async with self._engine.begin() as connection:
            gone = await files.remove_expired(connection, now=now)
        for file_id in gone:
            await self._objects.delete_all(files.owner(file_id))

    async def tidy(self) -> None:
        """Remove uploads broken off, bytes of files that are forgotten, blobs of jobs that have ended; a day late."""
        now = self._clock()
        await self._objects.sweep(now)
        old = await self._objects.old_names("files", now - STALE_SECONDS)
        for name in old - await self._known(old):
            await self._objects.delete_all(files.owner(name))
        old = await self._objects.old_names("jobs", now - STALE_SECONDS)
        for name in old - await self._open(old):
            await self._objects.delete_all(f"jobs/{name}")

    async def _known(self, names: Collection[str]) -> set[str]:
        return await self._found(files_table.c.id, names)

    async def _open(self, names: Collection[str]) -> set[str]:
        return await self._found(jobs.c.id, names, jobs.c.status.in_(OPEN))

    async def _found(self, ids: Column[str], names: Collection[str], *also: ColumnElement[bool]) -> set[str]:
        """Which of these ids there are; part by part, since a statement takes a bounded number of parameters."""
        left, found = iter(names), set[str]()
        async with self._engine.connect() as connection:
            while part := list(itertools.islice(left, AT_ONCE)):
                found.update(await connection.scalars(select(ids).where(ids.in_(part), *also)))
        return found
