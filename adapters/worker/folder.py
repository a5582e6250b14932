"""The work folder: one trainer at a time holds it, and it keeps what makes that trainer's name its own.

The gateway gives a job back to a trainer that claims again under the same name. Two trainers of one name would take
each other's jobs, two in one folder would remove each other's files; so the name comes with the folder, and the folder
with a lock.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters.errors import ConfigurationError
from adapters.locking import locked

_MARK = re.compile(r"[0-9a-f]{8}")
_NAME_CHARACTERS = 180  # of the 200 that the gateway takes


@contextmanager
def held(work: Path, name: str) -> Iterator[str]:
    """Hold the folder, and give the trainer's whole name: `name` and what the folder keeps.

    ConfigurationError when another trainer holds it, or it cannot be written. The kernel frees a killed one's lock.
    """
    try:
        work.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = locked(work)
    except BlockingIOError:
        raise ConfigurationError(
            f"work: {work} is the folder of another trainer that is running; give each trainer one of its own"
        ) from None
    except OSError as exc:
        raise ConfigurationError(f"work: {work} cannot be written ({exc.strerror}); give another folder") from exc
    with lock:
        yield f"{name[:_NAME_CHARACTERS]}-{_kept(work / '.name')}"


def _kept(path: Path) -> str:
    """What this folder's trainer is called, drawn once."""
    known = path.read_text(encoding="ascii", errors="replace") if path.exists() else ""
    if _MARK.fullmatch(known):
        return known
    drawn, temporary = secrets.token_hex(4), path.with_suffix(".tmp")
    temporary.write_text(drawn, encoding="ascii")
    temporary.replace(path)
    return drawn
