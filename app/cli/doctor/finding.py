"""What the doctor says of one part."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

PROBE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One part: whether it is well, and a sentence; where it is not, the sentence says what to do."""

    part: str
    ok: bool
    says: str


def shown(url: str) -> str:
    """An address without the user and password that may stand in it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
