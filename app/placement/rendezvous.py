"""Every key's own order of the replicas: highest random weight (rendezvous) hashing. Pure.

The order is the same in every gateway process, and a replica that comes or goes moves only the keys that it takes or
held (Thaler and Ravishankar, 1998).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

REMEMBERED = 8192


def rank(key: str, urls: Sequence[str]) -> tuple[str, ...]:
    """The replicas in the key's order, its home first."""
    return _ranked(key, tuple(sorted(urls)))


@lru_cache(maxsize=REMEMBERED)
def _ranked(key: str, urls: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(urls, key=lambda url: _weight(key, url), reverse=True))


def _weight(key: str, url: str) -> bytes:
    return blake2b(f"{len(key)}:{key}{url}".encode(), digest_size=8).digest()
