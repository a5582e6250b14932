"""Tenants in SQL. An id is never used twice: ledger, counters and artifacts of a deleted tenant keep its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import Conflict, NotFound
from app.storage.administration.change import Change, Page, Row, limit_columns, limits_of, page
from app.storage.tables import adapter_versions, aliases, keys, routes, teams, tenants
from app.types import Limits


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer of the gateway: everything else belongs to one."""

    id: str
    name: str | None
    limits: Limits
    created_at: float = 0.0


async def create(change: Change, tenant: Tenant) -> Tenant:
    """Insert a tenant; raises Conflict when its id is taken or was."""
    known = await change.connection.scalar(select(tenants.c.deleted).where(tenants.c.id == tenant.id))
    if known is not None:
        state = "was used by a deleted tenant and is not used again" if known else "is taken"
        raise Conflict(f"This tenant id {state}. Choose another one.", param="id")
    values = {"id": tenant.id, "name": tenant.name, **limit_columns(tenant.limits), **change.new()}
    await change.connection.execute(tenants.insert().values(values))
    return _tenant(values)


async def get(connection: AsyncConnection, tenant_id: str) -> Tenant:
    """The tenant; raises NotFound."""
    query = select(tenants).where(tenants.c.id == tenant_id, ~tenants.c.deleted)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound("There is no such tenant. GET /admin/v1/tenants lists them.", param="tenant")
    return _tenant(row)


async def listing(connection: AsyncConnection, *, after: str | None, limit: int) -> Page[Tenant]:
    """Tenants in the order of their ids."""
    return await page(
        connection, select(tenants).where(~tenants.c.deleted), tenants.c.id, _tenant, after=after, limit=limit
    )


async def edit(change: Change, tenant_id: str, edited: Callable[[Tenant], Tenant]) -> Tenant:
    """Replace name and limits by what `edited` makes of the present ones; raises NotFound."""
    tenant = edited(await get(change.connection, tenant_id))
    values = {"name": tenant.name, **limit_columns(tenant.limits), "revision": change.revision}
    await change.connection.execute(update(tenants).where(tenants.c.id == tenant_id).values(values))
    return tenant


async def delete(change: Change, tenant_id: str) -> None:
    """Mark the tenant and everything of it as deleted, so that its keys refuse at once; raises NotFound."""
    await get(change.connection, tenant_id)
    marked = {"deleted": True, "revision": change.revision}
    await change.connection.execute(update(tenants).where(tenants.c.id == tenant_id).values(marked))
    for table, owner in (
        (teams, teams.c.tenant_id),
        (keys, keys.c.tenant_id),
        (routes, routes.c.scope),
        (adapter_versions, adapter_versions.c.tenant_id),
        (aliases, aliases.c.tenant_id),
    ):
        await change.connection.execute(update(table).where(owner == tenant_id, ~table.c.deleted).values(marked))


def _tenant(row: Row) -> Tenant:
    return Tenant(row["id"], row["name"], limits_of(row), row["created_at"])
