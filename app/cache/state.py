"""What all replicas agree on about a tenant's cache, in one small hash that every lookup reads with its answer.

*Epochs*: a counter for the tenant, and for each route, variant, adapter and adapter version that was ever cleared. An
answer counts only in the epoch it was asked in, so clearing is one HINCRBY, felt by every replica's next lookup at
once, and an answer that was still on its way when the cache was cleared is never found. No clocks are compared.

*Promises*: the evidence about each route's semantic hits, replaced only by whoever has read the latest one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.cache.key import Labels
from app.cache.promise import Promise, decode, encode
from app.storage.redis import RedisStore, Script

_REPLACE = Script("""
local now = redis.call('HGET', KEYS[1], ARGV[1])
if (now or '') ~= ARGV[2] then return {0, now or ''} end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return {1, ARGV[3]}
""")
_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class State:
    """The epoch that answers of one kind are made in now (8 bytes), and the promise of their route."""

    epoch: bytes
    promise: Promise


@dataclass(frozen=True, slots=True)
class States:
    """The tenants' hashes."""

    store: RedisStore

    def read(self, tenant_id: str, labels: Labels) -> asyncio.Future[Any]:
        """Ask for what `parsed` understands."""
        return self.store.command("HMGET", _name(tenant_id), f"p:{labels.route}", *epochs(labels))

    async def clear(self, tenant_id: str, field: str) -> None:
        """Begin a new epoch for everything that is labelled so; see `epochs`. Raises RedisDown."""
        await self.store.command("HINCRBY", _name(tenant_id), field, 1)

    async def promise(self, tenant_id: str, route: str) -> Promise:
        """The promise of a route (its label), as it stands. Raises RedisDown."""
        return decode(await self.store.command("HGET", _name(tenant_id), f"p:{route}"))

    async def forget_promises(self, tenant_id: str, route: str | None) -> None:
        """Start anew with one route (its label) or all routes of a tenant: what was off is on again."""
        name = _name(tenant_id)
        fields = await self.store.command("HKEYS", name) if route is None else [f"p:{route}".encode()]
        gone = [field for field in fields if field.startswith(b"p:")]
        if gone:
            await self.store.command("HDEL", name, *gone)

    async def amend(self, tenant_id: str, labels: Labels, change: Callable[[Promise], Promise]) -> Promise:
        """Replace a route's promise by `change` of it, whoever else does so at the same time. Raises RedisDown."""
        name, field = _name(tenant_id), f"p:{labels.route}"
        before: bytes = await self.store.command("HGET", name, field) or b""
        after = decode(before or None)
        for _ in range(_ATTEMPTS):
            after = change(decode(before or None))
            replaced, before = await self.store.run(_REPLACE, [name], [field, before, encode(after)])
            if replaced:
                break
        return after


def parsed(reply: Sequence[bytes | None]) -> State:
    """What `States.read` brought."""
    digest = hashlib.blake2s(digest_size=8)
    for counter in reply[1:]:
        digest.update((counter or b"0") + b",")
    return State(digest.digest(), decode(reply[0]))


def epochs(labels: Labels) -> tuple[str, str, str, str, str]:
    """The counters that an answer depends on, widest first: tenant, route, variant, adapter, adapter version."""
    return (
        "e",
        f"e:r:{labels.route}",
        f"e:v:{labels.route}.{labels.variant}",
        f"e:a:{labels.adapter}",
        f"e:i:{labels.version}",
    )


def _name(tenant_id: str) -> str:
    return f"tg:{{{tenant_id}}}:cache"
