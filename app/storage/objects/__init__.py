"""The object store: bytes under the name of their content, in a folder that gateways share or in an S3 bucket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

from app.types import Stored


class Objects(Protocol):
    """Bytes under `<kind>/<owner>/<sha256>`: whole or not at all, and always those that the name says.

    Memory holds a few blocks, whatever the size. Raises Unavailable when the store cannot be reached or written, and
    ValueError for a name that the gateway cannot have made.
    """

    async def put(
        self,
        owner: str,
        parts: AsyncIterator[bytes],
        *,
        max_bytes: int,
        sha256: str | None = None,
        judge: Callable[[Path], None] = ...,
    ) -> Stored:
        """Keep the parts as one object of `owner` (`<kind>/<owner>`), and say its size and hash.

        Raises BodyTooLarge past `max_bytes`, Damaged when `sha256` is given and is not theirs, and what `judge` raises
        on the finished file (called in a thread); nothing is kept then.
        """
        ...

    async def size(self, key: str) -> int | None:
        """The object's bytes, or None where there is no object."""
        ...

    def read(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes from `start` to before `end`, block by block; raises NotFound."""
        ...

    def file(self, key: str) -> AbstractAsyncContextManager[BinaryIO]:
        """The object as a file on this machine, as long as the block runs; raises NotFound."""
        ...

    async def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        ...

    async def delete_all(self, owner: str) -> None:
        """Remove every object of this owner."""
        ...

    async def old_names(self, kind: str, before: float) -> set[str]:
        """Owners of this kind that got nothing since `before`."""
        ...

    async def sweep(self, now: float | None = None) -> int:
        """Remove what uploads that were broken off have left; returns how many."""
        ...
