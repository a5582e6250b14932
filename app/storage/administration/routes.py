"""Routes in SQL: of one tenant, or shared by all (scope `*`). A name may be used again after a deletion."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import NotFound
from app.storage.administration import tenants
from app.storage.administration.change import Change, Page, Row, page
from app.storage.spec import RouteJson
from app.storage.tables import SHARED, routes


@dataclass(frozen=True, slots=True)
class StoredRoute:
    """A public model name and what stands behind it; `tenant_id=None` is shared by all tenants."""

    name: str
    tenant_id: str | None
    spec: RouteJson
    created_at: float = 0.0


async def put(change: Change, route: StoredRoute) -> tuple[StoredRoute, bool]:
    """Make or replace a route; returns it and whether it is new. Raises NotFound without its tenant."""
    if route.tenant_id is not None:
        await tenants.get(change.connection, route.tenant_id)
    place = _place(route.tenant_id, route.name)
    known = (await change.connection.execute(select(routes).where(*place))).mappings().one_or_none()
    values = {"spec": route.spec.model_dump(mode="json"), **change.new()}
    if known is None:
        values |= {"scope": _scope(route.tenant_id), "name": route.name}
        await change.connection.execute(routes.insert().values(values))
        return _route(values), True
    if not known["deleted"]:
        values["created_at"] = known["created_at"]
    await change.connection.execute(update(routes).where(*place).values(values))
    return _route({**known, **values}), bool(known["deleted"])


async def get(connection: AsyncConnection, tenant_id: str | None, name: str) -> StoredRoute:
    """The route of exactly this scope; raises NotFound."""
    query = select(routes).where(*_place(tenant_id, name), ~routes.c.deleted)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound("There is no such route in this scope.", param="route")
    return _route(row)


async def listing(
    connection: AsyncConnection, tenant_id: str | None, *, after: str | None, limit: int
) -> Page[StoredRoute]:
    """Routes of exactly this scope in the order of their names; raises NotFound without the tenant."""
    if tenant_id is not None:
        await tenants.get(connection, tenant_id)
    query = select(routes).where(routes.c.scope == _scope(tenant_id), ~routes.c.deleted)
    return await page(connection, query, routes.c.name, _route, after=after, limit=limit)


async def delete(change: Change, tenant_id: str | None, name: str) -> None:
    """Mark the route as deleted; raises NotFound."""
    await get(change.connection, tenant_id, name)
    marked = {"deleted": True, "revision": change.revision}
    await change.connection.execute(update(routes).where(*_place(tenant_id, name)).values(marked))


def _scope(tenant_id: str | None) -> str:
    return SHARED if tenant_id is None else tenant_id


def _place(tenant_id: str | None, name: str) -> tuple[ColumnElement[bool], ...]:
    return (routes.c.scope == _scope(tenant_id), routes.c.name == name)


def _route(row: Row) -> StoredRoute:
    tenant_id = None if row["scope"] == SHARED else row["scope"]
    return StoredRoute(row["name"], tenant_id, RouteJson.model_validate(row["spec"]), row["created_at"])
