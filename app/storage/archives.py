"""Tars of trainers: judged before they are kept, and unpacked one plain file at a time."""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from app.errors import InvalidRequest

MAX_MEMBERS = 64
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def judge(path: Path) -> None:
    """Raise InvalidRequest unless this is a tar of plain files at its top level. Blocking."""
    with path.open("rb") as file, _reading(file) as tar:
        _members(tar)


def unpack(file: BinaryIO, target: Path, wanted: frozenset[str]) -> None:
    """Write exactly these members into a folder; raises InvalidRequest unless exactly these are there. Blocking."""
    with _reading(file) as tar:
        members = _members(tar)
        if set(members) != wanted:
            raise InvalidRequest(f"artifact: expected exactly the files {', '.join(sorted(wanted))}.", param="artifact")
        for name, member in members.items():
            content = tar.extractfile(member)
            if content is not None:
                with content, (target / name).open("xb") as out:
                    shutil.copyfileobj(content, out)


def _members(tar: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    found: dict[str, tarfile.TarInfo] = {}
    for member in tar:
        plain = member.isreg() and not member.issparse() and _NAME.fullmatch(member.name) and set(member.name) != {"."}
        if not plain or member.name in found or len(found) == MAX_MEMBERS:
            raise InvalidRequest(
                f"The tar may hold at most {MAX_MEMBERS} plain files with different names of letters, digits, `._-`.",
                param="body",
            )
        found[member.name] = member
    return found


@contextmanager
def _reading(file: BinaryIO) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            yield tar
    except (tarfile.TarError, EOFError, ValueError) as exc:
        raise InvalidRequest("The body is not a whole, uncompressed tar.", param="body") from exc
