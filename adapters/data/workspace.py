"""The folder that data work happens in: one writer at a time, a key of its own, readable by its owner only."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapters.data.storage import full_disk_in_words, write_bytes
from adapters.errors import StageError
from adapters.locking import locked
from adapters.settings import Redaction, secret

_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Workspace:
    """`stages` holds what stages hand each other (raw texts too), `home/datasets` what is finished."""

    home: Path
    key: bytes

    @property
    def stages(self) -> Path:
        """Where stages work; it can be deleted at any time, and is made again."""
        return self.home / "stages"


@contextmanager
def open_workspace(home: Path, redaction: Redaction) -> Iterator[Workspace]:
    """Hold the work folder; a second writer is refused. The kernel frees the lock of a killed one."""
    with full_disk_in_words(home):
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        lock = locked(home)
    except BlockingIOError:
        raise StageError(f"{home}: another run is at work there; wait for its end, or choose another --home") from None
    with lock:
        yield Workspace(home, _key(home, redaction))


def _key(home: Path, redaction: Redaction) -> bytes:
    """Give the key of stand-ins: from the environment, else one kept here, so that a value keeps its stand-in."""
    given = secret(redaction.key_env)
    if given is not None:
        return given.encode()
    path = home / "redaction.key"
    if not path.exists():
        write_bytes(path, secrets.token_bytes(_KEY_BYTES))
        path.chmod(0o600)
    return path.read_bytes()
