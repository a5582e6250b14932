"""A folder of adapters named by their content: found, fetched, verified, and kept within a bound.

`tenant--name@sha12/` holds adapter_config.json and adapter_model.safetensors. A name is matched before it touches the
disk, no link is followed, and the hash over both files must begin with the twelve digits of the name: then it does not
matter who has put them there. Files are written with fsync and appear by one rename. When the folder is over its bound,
SIEVE (Zhang et al., NSDI 2024) chooses what goes: one bit for each entry, a hand that passes over the used ones once.
Nothing here imports vLLM.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import stat
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MAX_BYTES = {CONFIG: 1024 * 1024, WEIGHTS: 16 * 1024**3}
NAME = re.compile(r"[a-z0-9-]{1,63}--[a-z0-9-]{1,63}@[0-9a-f]{12}")
BLOCK_BYTES = 1024 * 1024
FETCH_SECONDS = 60.0


class Sieve:
    """The order of eviction: entries in the order in which they came, each with one bit, and a hand."""

    def __init__(self) -> None:
        self._used: dict[str, bool] = {}
        self._hand: str | None = None

    def __contains__(self, name: str) -> bool:
        return name in self._used

    def use(self, name: str) -> None:
        """A hit, or a new entry."""
        self._used[name] = name in self._used

    def forget(self, name: str) -> None:
        """It is gone."""
        self._used.pop(name, None)

    def victim(self, may_go: Callable[[str], bool]) -> str | None:
        """The entry to drop: the first from the hand on that was not used since the hand last came by."""
        names = list(self._used)
        start = names.index(self._hand) if self._hand in self._used else 0
        for name in (names[start:] + names[:start]) * 2:
            if not may_go(name):
                continue
            if not self._used[name]:
                place = (names.index(name) + 1) % len(names)
                self._hand = names[place]
                return name
            self._used[name] = False
        return None


class AdapterStore:
    """The folder; `url`, if any, is where adapters that are not there are fetched from. Blocking, thread-safe."""

    def __init__(self, folder: Path, *, url: str | None = None, max_bytes: int | None = None) -> None:
        self._folder = folder
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("TUNEGATE_ADAPTERS_URL: expected an http:// or https:// address")
        self._url = url.rstrip("/") if url else None
        self._max_bytes = max_bytes
        self._verified: dict[str, int] = {}
        self._sieve = Sieve()
        self._lock = threading.Lock()
        self._registered: Callable[[], frozenset[str]] = frozenset

    def keep(self, registered: Callable[[], frozenset[str]]) -> None:
        """Names that may not go while the server knows them: it reads their files again when it needs to."""
        self._registered = registered

    def path(self, name: str) -> Path | None:
        """The folder of exactly the adapter that the name says, or None."""
        if NAME.fullmatch(name) is None:
            return None
        with self._lock:
            found = self._folder / name
            if not found.is_dir() and self._url is not None:
                self._fetch(name)
            if not self._is_whole(found, name):
                return None
            self._sieve.use(name)
            return found

    def _is_whole(self, found: Path, name: str) -> bool:
        try:
            newest = sum((found / file).lstat().st_mtime_ns for file in (CONFIG, WEIGHTS))
            if self._verified.get(name) == newest:
                return True
            whole = not found.is_symlink() and content_hash(found)[:12] == name[-12:]
        except OSError:
            return False
        if whole:
            self._verified[name] = newest
        return whole

    def _fetch(self, name: str) -> None:
        with _staging(self._folder) as staging:
            for file in (CONFIG, WEIGHTS):
                if not _download(f"{self._url}/{name}/{file}", staging / file, MAX_BYTES[file]):
                    return
            if content_hash(staging)[:12] != name[-12:]:
                return
            self._make_room(sum((staging / file).stat().st_size for file in (CONFIG, WEIGHTS)))
            _sync(staging)
            staging.rename(self._folder / name)
            _sync(self._folder)

    def _make_room(self, wanted: int) -> None:
        if self._max_bytes is None:
            return
        sizes = {found.name: _size(found) for found in self._folder.iterdir() if NAME.fullmatch(found.name)}
        for name in sorted(sizes):
            if name not in self._sieve:
                self._sieve.use(name)
        registered = self._registered()
        while sum(sizes.values()) + wanted > self._max_bytes:
            victim = self._sieve.victim(lambda name: name in sizes and name not in registered)
            if victim is None:
                return  # everything is in use: the bound gives way, not the adapters
            self._sieve.forget(victim)
            self._verified.pop(victim, None)
            del sizes[victim]
            shutil.rmtree(self._folder / victim, ignore_errors=True)


def content_hash(folder: Path) -> str:
    """SHA-256 over both files, each led by its length; the gateway's own definition of a version's address."""
    total = hashlib.sha256(b"tunegate-adapter\x00")
    for name in (CONFIG, WEIGHTS):
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OSError(f"{name} is not a regular file")
            total.update(status.st_size.to_bytes(8, "big"))
            while block := file.read(BLOCK_BYTES):
                total.update(block)
    return total.hexdigest()


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    staging = folder / f".incoming-{secrets.token_hex(8)}"
    staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _download(url: str, target: Path, most: int) -> bool:
    """Whether the whole file is there; redirects are followed by nobody but the address's own server."""
    try:
        with urllib.request.urlopen(url, timeout=FETCH_SECONDS) as answer, target.open("xb") as file:  # noqa: S310 - the operator's address
            copied = 0
            while block := answer.read(BLOCK_BYTES):
                copied += len(block)
                if copied > most:
                    return False
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    except (urllib.error.URLError, OSError, ValueError):
        return False
    return True


def _size(folder: Path) -> int:
    try:
        return sum(file.lstat().st_size for file in folder.iterdir())
    except OSError:
        return 0


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
