"""The object store: bytes under a key, whole or not at all, in a folder.

An object is written under a temporary name while it is counted and hashed, judged, synced, and then appears under its
key by one rename; nothing half-written is ever seen, also after a crash. Memory holds one block, whatever the size.
Keys are made here by the gateway (`files/<id>`, `jobs/<id>/<sha256>`), never taken from a caller as they are.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.errors import BodyTooLarge, Damaged, NotFound, Unavailable

BLOCK_BYTES = 1024 * 1024
STALE_SECONDS = 86_400.0  # an upload that was broken off longer ago than this is nobody's any more
_INCOMING = ".incoming"
_KEY = re.compile(r"[a-z]+(/[A-Za-z0-9][A-Za-z0-9_-]{0,127}){1,2}")


@dataclass(frozen=True, slots=True)
class Stored:
    """What was written."""

    bytes: int
    sha256: str


class LocalObjects:
    """Objects in one folder; processes that share the folder share the objects."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(
        self,
        key: str,
        parts: AsyncIterator[bytes],
        *,
        max_bytes: int,
        sha256: str | None = None,
        judge: Callable[[Path], None] = lambda _: None,
    ) -> Stored:
        """Write an object as its bytes come.

        Raises BodyTooLarge past `max_bytes`, Damaged when `sha256` is given and is not theirs, what `judge` raises on
        the finished file (called in a thread), and Unavailable when the folder cannot be written.
        """
        target = self._path(key)
        incoming = self._folder / _INCOMING / secrets.token_hex(16)
        with _writing():
            incoming.parent.mkdir(parents=True, exist_ok=True)
            file = await asyncio.to_thread(incoming.open, "xb")
        try:
            stored = await _fill(file, parts, max_bytes)
            if sha256 is not None and stored.sha256 != sha256:
                raise Damaged("The bytes that arrived do not have this SHA-256; send them again.")
            await asyncio.to_thread(judge, incoming)
            with _writing():
                await asyncio.to_thread(_publish, incoming, target)
        finally:
            file.close()
            incoming.unlink(missing_ok=True)
        return stored

    async def size(self, key: str) -> int | None:
        """The object's bytes, or None where there is no object."""
        try:
            return (await asyncio.to_thread(self._path(key).stat)).st_size
        except FileNotFoundError:
            return None

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The object's bytes from `start` to before `end`, block by block; raises NotFound."""
        file = await self.open(key)
        return _blocks(file, start, end)

    async def open(self, key: str) -> BinaryIO:
        """The object as a file to read; an open one stays readable when it is deleted. Raises NotFound."""
        try:
            return await asyncio.to_thread(self._path(key).open, "rb")
        except FileNotFoundError as exc:
            raise NotFound("The bytes are not there (any more).") from exc

    async def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        with _writing():
            await asyncio.to_thread(self._path(key).unlink, missing_ok=True)

    async def delete_all(self, prefix: str) -> None:
        """Remove every object whose key lies under this one."""
        await asyncio.to_thread(shutil.rmtree, self._path(prefix), ignore_errors=True)

    async def old_names(self, kind: str, before: float) -> set[str]:
        """Names directly under this kind of key that nothing was added to since `before`."""
        return await asyncio.to_thread(self._old_names, kind, before)

    def _old_names(self, kind: str, before: float) -> set[str]:
        return {path.name for path in (self._folder / kind).glob("*") if path.stat().st_mtime < before}

    async def sweep(self, now: float | None = None) -> int:
        """Remove what uploads that were broken off have left; returns how many."""
        return await asyncio.to_thread(self._sweep, time.time() if now is None else now)

    def _sweep(self, now: float) -> int:
        folder = self._folder / _INCOMING
        stale = [path for path in folder.glob("*") if path.stat().st_mtime < now - STALE_SECONDS]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def _path(self, key: str) -> Path:
        if _KEY.fullmatch(key) is None:
            raise ValueError(f"not a key of the object store: {key!r}")
        return self._folder / key


async def _fill(file: BinaryIO, parts: AsyncIterator[bytes], max_bytes: int) -> Stored:
    """Write blocks of a good size, in a thread; count and hash them on the way."""
    total, digest, block = 0, hashlib.sha256(), bytearray()

    def write(content: bytes) -> None:
        digest.update(content)
        file.write(content)

    with _writing():
        async for part in parts:
            total += len(part)
            if total > max_bytes:
                raise BodyTooLarge(f"The content is larger than {max_bytes} bytes.", param="file")
            block += part
            if len(block) >= BLOCK_BYTES:
                await asyncio.to_thread(write, bytes(block))
                block.clear()
        await asyncio.to_thread(write, bytes(block))
        await asyncio.to_thread(_sync, file)
    return Stored(total, digest.hexdigest())


async def _blocks(file: BinaryIO, start: int, end: int | None) -> AsyncIterator[bytes]:
    with file:
        await asyncio.to_thread(file.seek, start)
        left = None if end is None else end - start
        while left is None or left > 0:
            block = await asyncio.to_thread(file.read, BLOCK_BYTES if left is None else min(BLOCK_BYTES, left))
            if not block:
                return
            left = None if left is None else left - len(block)
            yield block


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _publish(incoming: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    incoming.replace(target)
    descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _writing() -> Iterator[None]:
    """A store that cannot be written is ours to mend, not the caller's."""
    try:
        yield
    except OSError as exc:
        full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "is full" if full else f"cannot be written: {exc.strerror}"
        raise Unavailable(f"The object store {reason}. Nothing was kept; try again later.") from exc
