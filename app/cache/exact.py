"""Whole answers in Redis, by exact key: one GET to find, one SET with a time to live to keep.

A payload is a version byte, the moment it was stored (seconds since the epoch, big-endian double) and the answer's
JSON body, whose `usage` is what it once cost. Keys carry the tenant's hash tag; the digest in them covers the tenant
as well, so even two keys that look alike could not hold a foreign answer.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable
from dataclasses import dataclass

from app.storage.redis import RedisStore
from app.types import CachedAnswer, CacheStatus

_HEAD = struct.Struct(">Bd")
_VERSION = 1


@dataclass(frozen=True, slots=True)
class ExactAnswers:
    """The answers of all tenants, each under its own prefix."""

    store: RedisStore

    async def get(self, tenant_id: str, key: bytes, status: CacheStatus) -> CachedAnswer | None:
        """The answer under a key, labelled with how it was found."""
        payload = await self.store.get(_name(tenant_id, key))
        return None if payload is None else unpack(payload, status)

    def put(self, tenant_id: str, key: bytes, payload: bytes, ttl_seconds: int) -> Awaitable[object]:
        """Keep a packed answer for a while."""
        return self.store.command("SET", _name(tenant_id, key), payload, "EX", ttl_seconds)


def pack(body: bytes, stored_at: float) -> bytes:
    """A payload of an answer body."""
    return _HEAD.pack(_VERSION, stored_at) + body


def unpack(payload: bytes, status: CacheStatus) -> CachedAnswer | None:
    """The answer in a payload; None for one that another version of the gateway wrote."""
    if len(payload) <= _HEAD.size:
        return None
    version, stored_at = _HEAD.unpack_from(payload)
    return CachedAnswer(payload[_HEAD.size :], status, stored_at) if version == _VERSION else None


def _name(tenant_id: str, key: bytes) -> str:
    return f"tg:{{{tenant_id}}}:answer:{key.hex()}"
