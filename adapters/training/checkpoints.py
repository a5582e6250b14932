"""Whole checkpoints only: a folder counts once it is sealed, so a kill in a save costs that save and no more.

The seal (`sealed.json`) lists every file with its size and is written last, after every process has written its part. A
folder without a seal, or whose files do not match it, is removed before a resume. Pruning happens after sealing, so
there is never a moment without a whole checkpoint.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import msgspec

SEAL = "sealed.json"
_NAME = re.compile(r"^checkpoint-(\d+)$")


class Seal(msgspec.Struct, frozen=True):
    """What a whole checkpoint consists of: the optimizer step, and sizes in bytes by relative path."""

    step: int
    files: dict[str, int]


def step_of(folder: Path) -> int:
    """The optimizer step in a checkpoint's name."""
    matched = _NAME.match(folder.name)
    return int(matched[1]) if matched else -1


def seal(folder: Path) -> None:
    """Declare a checkpoint whole."""
    files = {str(file.relative_to(folder)): file.stat().st_size for file in _files(folder)}
    for file in _files(folder):
        _sync(file)
    temporary = folder / f"{SEAL}.tmp"
    temporary.write_bytes(msgspec.json.encode(Seal(step_of(folder), files)))
    _sync(temporary)
    temporary.replace(folder / SEAL)
    _sync(folder)


def is_whole(folder: Path) -> bool:
    """Whether a seal is there and every file has the size it says."""
    try:
        sealed = msgspec.json.decode((folder / SEAL).read_bytes(), type=Seal)
        return all((folder / name).stat().st_size == size for name, size in sealed.files.items())
    except (FileNotFoundError, msgspec.DecodeError):
        return False


def whole(folder: Path) -> list[Path]:
    """Whole checkpoints in a folder, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if step_of(path) >= 0 and is_whole(path)]
    return sorted(found, key=step_of)


def newest(folder: Path) -> Path | None:
    """The checkpoint to resume from; what is not whole is removed on the way."""
    for path in folder.glob("checkpoint-*"):
        if not is_whole(path):
            shutil.rmtree(path)
    kept = whole(folder)
    return kept[-1] if kept else None


def prune(folder: Path, keep: int, best: Path | None = None) -> None:
    """Remove all but the newest `keep` whole checkpoints and the best one."""
    for path in whole(folder)[:-keep]:
        if best is None or path.resolve() != best.resolve():
            shutil.rmtree(path)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(SEAL))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
