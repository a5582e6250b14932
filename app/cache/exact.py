"""Whole answers in Redis, by exact key: one GET to find, one SET with a time to live to keep.

A payload is a version byte, the moment it was stored (seconds since the epoch, big-endian double), the epoch it was
made in (8 bytes, see `app.cache.state`) and the answer's JSON body, whose `usage` is what it once cost. Keys carry the
tenant's hash tag; the digest in them covers the tenant as well, so even two keys that look alike could not hold a
foreign answer.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from typing import Any

from app.cache.key import Labels
from app.storage.redis import RedisStore
from app.types import CachedAnswer, CacheStatus

_HEAD = struct.Struct(">Bd8s")
_VERSION = 2


@dataclass(frozen=True, slots=True)
class ExactAnswers:
    """The answers of all tenants, each under its own prefix."""

    store: RedisStore

    def get(self, tenant_id: str, labels: Labels, key: bytes) -> asyncio.Future[Any]:
        """Ask for the payload under a key; it may be None."""
        return self.store.command("GET", _name(tenant_id, labels, key))

    def put(self, tenant_id: str, labels: Labels, key: bytes, payload: bytes, ttl_seconds: int) -> asyncio.Future[Any]:
        """Keep a packed answer for a while."""
        return self.store.command("SET", _name(tenant_id, labels, key), payload, "EX", ttl_seconds)


def pack(body: bytes, *, stored_at: float, epoch: bytes) -> bytes:
    """A payload of an answer body."""
    return _HEAD.pack(_VERSION, stored_at, epoch) + body


def unpack(payload: bytes | None, epoch: bytes, status: CacheStatus) -> CachedAnswer | None:
    """The answer in a payload, labelled with how it was found; None for one of another epoch, or of another gateway."""
    if payload is None or len(payload) <= _HEAD.size:
        return None
    version, stored_at, made_in = _HEAD.unpack_from(payload)
    if version != _VERSION or made_in != epoch:
        return None
    return CachedAnswer(payload[_HEAD.size :], status, stored_at)


def _name(tenant_id: str, labels: Labels, key: bytes) -> str:
    return f"tg:{{{tenant_id}}}:answer:{labels}:{key.hex()}"
