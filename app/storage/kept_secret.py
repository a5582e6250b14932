"""A secret of the installation, made once and kept in the data folder for its owner only."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def kept_secret(folder: Path, name: str) -> str:
    """The secret in this file, made first if need be (256 bits, URL-safe).

    Race removed: two processes that start at once. The file appears whole or not at all, and the first one stands.
    """
    path = folder / name
    if not path.exists():
        made = folder / f"{name}.{secrets.token_hex(8)}"
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            handle.write(secrets.token_urlsafe(32) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        with suppress(FileExistsError):
            path.hardlink_to(made)
        made.unlink()
    return path.read_text(encoding="utf-8").strip()
