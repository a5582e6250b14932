"""Files of retired adapter versions are removed, but only past a safe horizon.

vLLM reads an adapter's files again whenever it has dropped the weights, and dies of a folder that is gone. So a
version's files stay until it has been retired for longer than any server can still know its name; then the row is
marked deleted first and the files go after it: a crash between the two leaves files that nobody names, never a name
without files.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.errors import Unavailable
from app.storage.administration.change import changing, reading
from app.storage.administration.lifecycle import State
from app.storage.artifacts import remove_adapter
from app.storage.tables import adapter_versions

_log = structlog.get_logger()


class Janitor:
    """Removes what has been retired for `horizon_seconds`."""

    def __init__(
        self,
        engine: AsyncEngine,
        folder: Path,
        *,
        horizon_seconds: float,
        every_seconds: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._folder = folder
        self._horizon = horizon_seconds
        self._every = every_seconds
        self._clock = clock

    async def run(self) -> None:
        """Sweep for ever; an outage is waited out."""
        while True:
            await asyncio.sleep(self._every)
            try:
                await self.sweep()
            except (Unavailable, SQLAlchemyError, OSError) as exc:
                _log.warning("artifacts_not_swept", error=type(exc).__name__)

    async def sweep(self) -> list[str]:
        """Remove every version that is past the horizon; returns their ids."""
        past = self._clock() - self._horizon
        retired = select(adapter_versions.c.id).where(
            adapter_versions.c.state == State.RETIRED.value,
            adapter_versions.c.state_at < past,
            ~adapter_versions.c.deleted,
        )
        async with reading(self._engine) as connection:
            found = [str(version_id) for version_id in (await connection.scalars(retired)).all()]
        for version_id in found:
            await self._remove(version_id)
        return found

    async def _remove(self, version_id: str) -> None:
        async with changing(self._engine, clock=self._clock) as change:
            marked = {"deleted": True, "revision": change.revision}
            place = (adapter_versions.c.id == version_id, adapter_versions.c.state == State.RETIRED.value)
            await change.connection.execute(update(adapter_versions).where(*place).values(marked))
        await asyncio.to_thread(remove_adapter, self._folder, version_id)
        _log.info("adapter_files_removed", adapter=version_id)
