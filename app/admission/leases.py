"""Charges leases that ran out, of tenants that send nothing too, for the price of those tenants that have any.

One sorted set for all gateways says when each tenant is looked at next. Invariant: no lease of a tenant ends before
that. A look charges what is due and sets the next one: when the earliest lease that is left ends, and after one lease's
time at the latest, for a lease made from now on cannot end sooner. So a tenant costs one script per lease time for all
gateways together, and requests pay nothing for it. (Gateways with a longer `lease_seconds` than others delay the looks
by as much.)

Races removed: of several gateways one takes a tenant that is due, by moving its time on in the same script; if that
gateway dies, another takes it after `TAKEN_MS`. A tenant that is missing from the set (it is new, or Redis has lost the
set) is put in at the next sweep and looked at at once. The set has a slot of its own in a Redis Cluster, each tenant's
script runs in the tenant's.

Fail mode: raises RedisDown; leases wait until Redis is back. A request charges some of its tenant's due leases as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from app.admission.accounts import leases_key, reservation_key
from app.admission.scripting import load
from app.storage.ledger import stream_key
from app.storage.redis import RedisStore

INDEX = "tg:leases:due"
TAKEN_MS = 30_000
BATCH = 200  # leases charged, or tenants taken, by one script
ENTERED = 500  # tenants put in by one command
TOGETHER = 8  # tenants looked at side by side: the replies share the connection of the request path


class Leases:
    """The sweeper of one gateway; any number may run."""

    def __init__(self, store: RedisStore, *, lease_seconds: int) -> None:
        self._take, self._expire = load("take", "expire")
        self._store = store
        self._lease_ms = lease_seconds * 1000
        self._entered: set[str] = set()

    async def sweep(self, tenants: Sequence[str]) -> int:
        """Charge what is due, of these tenants and of all that are known; returns how many leases had run out."""
        await self._enter([tenant for tenant in tenants if tenant not in self._entered])
        charged, taken = 0, BATCH
        while taken == BATCH:
            known, due = await self._store.run(self._take, [INDEX], [BATCH, TAKEN_MS])
            if known < len(self._entered):
                self._entered.clear()  # Redis has lost the set: it is made anew by the next sweep
            charged += await self.charge([tenant.decode() for tenant in due])
            taken = len(due)
        return charged

    async def charge(self, tenants: Sequence[str]) -> int:
        """Look at these tenants now, whether they are due or not; returns how many leases had run out."""
        charged = 0
        for start in range(0, len(tenants), TOGETHER):
            group = tenants[start : start + TOGETHER]
            looked = await asyncio.gather(*(self._look(tenant) for tenant in group))
            times = [item for tenant, (_, at) in zip(group, looked, strict=True) for item in (at, tenant)]
            await self._store.command("ZADD", INDEX, "XX", *times)
            charged += sum(found for found, _ in looked)
        return charged

    async def _enter(self, new: Sequence[str]) -> None:
        for start in range(0, len(new), ENTERED):
            part = new[start : start + ENTERED]
            await self._store.command("ZADD", INDEX, "NX", *(item for tenant in part for item in (0, tenant)))
            self._entered.update(part)

    async def _look(self, tenant: str) -> tuple[int, int]:
        """How many leases had run out, and when to look again (milliseconds since the epoch, by Redis' clock)."""
        keys = [leases_key(tenant), stream_key(tenant)]
        charged, found, at = 0, BATCH, 0
        while found == BATCH:
            found, at = await self._store.run(self._expire, keys, [reservation_key(tenant, ""), BATCH, self._lease_ms])
            charged += found
        return charged, at
