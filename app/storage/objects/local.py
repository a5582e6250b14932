"""Objects in a folder; gateways that share the folder share the objects.

An object appears under its name by one rename of a synced file: whole or not at all, also after a crash.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from app.errors import NotFound
from app.storage.objects.keys import checked_key, checked_kind, checked_owner
from app.storage.objects.staging import Staging, blocks_of, writing
from app.types import Stored


class LocalObjects:
    """The store of one machine, or of many that share the folder; `app.interfaces.Objects` says what is promised."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._staging = Staging(folder / ".incoming")

    async def put(
        self,
        owner: str,
        parts: AsyncIterator[bytes],
        *,
        max_bytes: int,
        sha256: str | None = None,
        judge: Callable[[Path], None] = lambda _: None,
    ) -> Stored:
        """Keep the parts as one object of `owner`."""
        place = self._folder / checked_owner(owner)
        async with self._staging.received(parts, max_bytes=max_bytes, sha256=sha256, judge=judge) as (path, stored):
            with writing():
                await asyncio.to_thread(_publish, path, place / stored.sha256)
        return stored

    async def size(self, key: str) -> int | None:
        """The object's bytes, or None where there is no object."""
        try:
            return (await asyncio.to_thread(self._path(key).stat)).st_size
        except FileNotFoundError:
            return None

    @asynccontextmanager
    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes from `start` to before `end`; an object that is deleted meanwhile is read to its end."""
        async with self.file(key) as file:
            yield blocks_of(file, start, end)

    @asynccontextmanager
    async def file(self, key: str) -> AsyncIterator[BinaryIO]:
        """The object as a file on this machine."""
        try:
            file = await asyncio.to_thread(self._path(key).open, "rb")
        except FileNotFoundError as exc:
            raise NotFound("The bytes are not there (any more).") from exc
        with file:
            yield file

    async def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        with writing():
            await asyncio.to_thread(self._path(key).unlink, missing_ok=True)

    async def delete_all(self, owner: str) -> None:
        """Remove every object of this owner."""
        await asyncio.to_thread(shutil.rmtree, self._folder / checked_owner(owner), ignore_errors=True)

    async def old_names(self, kind: str, before: float) -> set[str]:
        """Owners of this kind that got nothing since `before`."""
        return await asyncio.to_thread(self._old_names, checked_kind(kind), before)

    def _old_names(self, kind: str, before: float) -> set[str]:
        return {path.name for path in (self._folder / kind).glob("*") if path.stat().st_mtime < before}

    async def sweep(self, now: float | None = None) -> int:
        """Remove what uploads that were broken off have left; returns how many."""
        return await self._staging.sweep(now)

    def _path(self, key: str) -> Path:
        return self._folder / checked_key(key)


def _publish(incoming: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    incoming.replace(target)
    descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
