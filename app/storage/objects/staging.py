"""Where bytes wait until they are known: counted, hashed, judged and synced before the store shows them.

Memory holds one block, whatever the size. What a crash leaves here is nobody's, and is swept a day later.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import BinaryIO

from app.errors import BodyTooLarge, Damaged, Unavailable
from app.types import Stored

BLOCK_BYTES = 1024 * 1024
STALE_SECONDS = 86_400.0  # an upload that was broken off longer ago than this is nobody's any more


class Staging:
    """A folder of uploads under way, one file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @asynccontextmanager
    async def received(
        self, parts: AsyncIterator[bytes], *, max_bytes: int, sha256: str | None, judge: Callable[[Path], None]
    ) -> AsyncIterator[tuple[Path, Stored]]:
        """All parts in one synced file, and what they are; the file is removed when the block is left.

        Raises BodyTooLarge past `max_bytes`, Damaged when `sha256` is given and is not theirs, what `judge` raises on
        the file (called in a thread), and Unavailable when the folder cannot be written.
        """
        async with self.file() as path:
            with writing():
                file = await asyncio.to_thread(path.open, "xb")
            with file:
                stored = await _fill(file, parts, max_bytes)
            if sha256 is not None and stored.sha256 != sha256:
                raise Damaged("The bytes that arrived do not have this SHA-256; send them again.")
            await asyncio.to_thread(judge, path)
            yield path, stored

    @asynccontextmanager
    async def file(self) -> AsyncIterator[Path]:
        """A name for a new file, which is removed when the block is left."""
        with writing():
            self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / secrets.token_hex(16)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    async def sweep(self, now: float | None = None) -> int:
        """Remove what uploads that were broken off have left; returns how many."""
        return await asyncio.to_thread(self._sweep, time.time() if now is None else now)

    def _sweep(self, now: float) -> int:
        stale = [path for path in self._folder.glob("*") if path.stat().st_mtime < now - STALE_SECONDS]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)


async def blocks_of(file: BinaryIO, start: int, end: int | None) -> AsyncIterator[bytes]:
    """The bytes of an open file from `start` to before `end`, block by block, read in a thread."""
    await asyncio.to_thread(file.seek, start)
    left = None if end is None else end - start
    while left is None or left > 0:
        block = await asyncio.to_thread(file.read, BLOCK_BYTES if left is None else min(BLOCK_BYTES, left))
        if not block:
            return
        left = None if left is None else left - len(block)
        yield block


@contextmanager
def writing() -> Iterator[None]:
    """A store that cannot be written is ours to mend, not the caller's."""
    try:
        yield
    except OSError as exc:
        full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "is full" if full else f"cannot be written: {exc.strerror}"
        raise Unavailable(f"The object store {reason}. Nothing was kept; try again later.") from exc


async def _fill(file: BinaryIO, parts: AsyncIterator[bytes], max_bytes: int) -> Stored:
    """Write blocks of a good size, in a thread; count and hash them on the way."""
    total, digest, block = 0, hashlib.sha256(), bytearray()

    def write(content: bytes) -> None:
        digest.update(content)
        file.write(content)

    with writing():
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


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
