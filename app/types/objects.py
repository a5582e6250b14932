"""Files that are kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stored:
    """What the object store keeps under one name."""

    bytes: int
    sha256: str
