"""Files whose name stands for whole content: temporary name, fsync, rename. A full disk is said in words."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from adapters.errors import StorageFullError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def full_disk_in_words(path: Path) -> Iterator[None]:
    """Turn the operating system's "no space left" into an error that says what to do."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in _FULL:
            raise
        raise StorageFullError(
            f"the disk that holds {path} is full; free some space and run the same command again: it goes on from here"
        ) from exc


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under its name only when the block ends well; a half-written one is removed."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with full_disk_in_words(path), temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_lines(path: Path, lines: Iterable[bytes]) -> str:
    """Write lines under a name at once and give the SHA-256 of the bytes."""
    digest = hashlib.sha256()
    with replacing(path) as file:
        for line in lines:
            digest.update(line)
            file.write(line)
    return digest.hexdigest()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file under its name at once."""
    write_lines(path, (content,))


def sha256_of(path: Path) -> str:
    """Give the SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
