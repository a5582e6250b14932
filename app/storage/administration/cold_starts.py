"""What a tenant's calls do while their adapter is not loaded: how long they wait, whether its last version answers."""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.administration import tenants
from app.storage.administration.change import Change
from app.storage.tables import cold_starts
from app.types import ColdStart


async def put(change: Change, tenant_id: str, rule: ColdStart) -> ColdStart:
    """Set the tenant's rule; raises NotFound without the tenant."""
    await tenants.get(change.connection, tenant_id)
    values = {"wait_ms": rule.wait_ms, "previous": rule.previous, **change.new()}
    changed = await change.connection.execute(
        update(cold_starts).where(cold_starts.c.tenant_id == tenant_id).values(values)
    )
    if changed.rowcount == 0:
        await change.connection.execute(cold_starts.insert().values({"tenant_id": tenant_id, **values}))
    return rule


async def get(connection: AsyncConnection, tenant_id: str) -> ColdStart:
    """The tenant's rule, or the usual one; raises NotFound without the tenant."""
    await tenants.get(connection, tenant_id)
    query = select(cold_starts).where(cold_starts.c.tenant_id == tenant_id, ~cold_starts.c.deleted)
    row = (await connection.execute(query)).mappings().one_or_none()
    return ColdStart() if row is None else ColdStart(row["wait_ms"], row["previous"])
