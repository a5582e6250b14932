"""One tenant's changes, one after another, where a sum must not be passed by two at once."""

from __future__ import annotations

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import NotFound
from app.storage.tables import tenants


async def lock(connection: AsyncConnection, tenant_id: str) -> None:
    """Let this transaction be the only one that holds the tenant, until it ends; raises NotFound for a deleted one.

    An update that changes nothing: it takes the row's lock in PostgreSQL and the one writer's place in SQLite.
    """
    place = (tenants.c.id == tenant_id, ~tenants.c.deleted)
    held = await connection.execute(update(tenants).where(*place).values(id=tenants.c.id))
    if held.rowcount == 0:
        raise NotFound("There is no such tenant (any more).", param="tenant")
