"""A full disk: how much is free, and how the libraries that write checkpoints say that nothing is."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from adapters.training.errors import StorageFull

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TORCH_WRITES = ("PytorchStreamWriter", "inline_container")  # torch says where it failed to write, but not why
_NOTHING_BYTES = 2**20


def free_bytes(path: Path) -> int:
    """Free space where a path is, or will be."""
    place = path
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def is_full(folder: Path) -> bool:
    """Whether so little is free that a checkpoint, or even the reason of a failure, could not be written."""
    return free_bytes(folder) < _NOTHING_BYTES


def says_full(error: Exception) -> bool:
    """Whether a failed write means a full disk, a used-up quota or a limit on files; also as safetensors has it."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    text = str(error)
    return any(f"os error {number})" in text for number in _FULL) or any(word in text for word in _TORCH_WRITES)


def full(folder: Path) -> StorageFull:
    """The refusal to go on."""
    return StorageFull(
        f"the disk under {folder.name} is full; free some space and start again: the training goes on from its newest"
        " whole checkpoint"
    )
