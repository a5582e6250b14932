"""Uploads under way: how many one tenant has at once, and what they have staged so far, in this process.

What is being received lies on the gateway's disk before SQL knows of it. So it counts against what the tenant may keep
from its first byte, whichever of the tenant's uploads brought it: many at once stage no more than one could.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.errors import RateLimited
from app.storage.tuning.files import over_quota

AT_ONCE = 8
_SOON = ((b"retry-after", b"2"), (b"retry-after-ms", b"2000"))  # clients wait for one of theirs to end


@dataclass(slots=True)
class Tenant:
    """One tenant's uploads, and the bytes that they have staged together."""

    uploads: int = 0
    staged: int = 0


@dataclass(frozen=True, slots=True)
class Uploads:
    """All tenants' uploads of this process."""

    at_once: int = AT_ONCE
    tenants: dict[str, Tenant] = field(default_factory=dict)

    @contextmanager
    def one(self, tenant_id: str) -> Iterator[Upload]:
        """One more upload of this tenant, as long as the block runs; raises RateLimited when it has too many."""
        tenant = self.tenants.setdefault(tenant_id, Tenant())
        if tenant.uploads >= self.at_once:
            raise RateLimited(
                f"file: {tenant.uploads} of your uploads are under way, and {self.at_once} may be at once. Send it"
                " again when one of them has ended.",
                param="file",
                headers=_SOON,
            )
        upload = Upload(tenant_id, tenant)
        tenant.uploads += 1
        try:
            yield upload
        finally:
            tenant.uploads -= 1
            tenant.staged -= upload.staged
            if not tenant.uploads:
                del self.tenants[tenant_id]


@dataclass(slots=True)
class Upload:
    """One upload; its bytes are counted until it ends."""

    tenant_id: str
    tenant: Tenant
    staged: int = 0

    async def counted(self, parts: AsyncIterator[bytes], *, kept: int, most: int) -> AsyncIterator[bytes]:
        """The same parts; raises QuotaExhausted before one that would not fit beside `kept` bytes and other uploads."""
        async for part in parts:
            if kept + self.tenant.staged + len(part) > most:
                raise over_quota(most)
            self.staged += len(part)
            self.tenant.staged += len(part)
            yield part
