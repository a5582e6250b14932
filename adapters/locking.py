"""A folder that one process at a time may hold."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import BinaryIO


def locked(folder: Path) -> BinaryIO:
    """Lock the folder until the file that this returns is closed, by the kernel at the latest when the process dies.

    BlockingIOError when another process holds it, another OSError when it cannot be written.
    """
    lock = (folder / ".lock").open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        lock.close()
        raise
    return lock
