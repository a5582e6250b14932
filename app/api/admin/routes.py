"""`/routes` and `/tenants/{tenant_id}/routes`: public model names, shared by all tenants or of one."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel

from app.api.admin.fields import Listing, Part, RouteName, TenantId
from app.api.admin.guard import Admin, AdminRoute
from app.api.admin.services import AdminServices
from app.errors import InvalidRequest, Unavailable
from app.storage.administration import routes
from app.storage.administration.routes import StoredRoute
from app.storage.spec import RouteJson, TargetJson

router = APIRouter(tags=["routes"], route_class=AdminRoute)
Name = Annotated[RouteName, Path()]
CHAMPION = "champion"  # what an alias is unless it is said


class StoredRouteJson(BaseModel):
    """A route and where it is valid; `tenant_id` null is shared by all tenants."""

    name: str
    tenant_id: str | None
    spec: RouteJson
    created_at: float

    @classmethod
    def of(cls, route: StoredRoute) -> StoredRouteJson:
        """The same as JSON."""
        return cls(name=route.name, tenant_id=route.tenant_id, spec=route.spec, created_at=route.created_at)


@router.get("/routes")
async def shared_listing(admin: Admin, part: Part) -> Listing[StoredRouteJson]:
    """Shared routes by name."""
    return await _listing(admin, None, part)


@router.get("/tenants/{tenant_id}/routes")
async def listing(tenant_id: TenantId, admin: Admin, part: Part) -> Listing[StoredRouteJson]:
    """The tenant's own routes by name."""
    return await _listing(admin, tenant_id, part)


@router.get("/routes/{name:path}")
async def get_shared(name: Name, admin: Admin) -> StoredRouteJson:
    """One shared route."""
    return await _get(admin, None, name)


@router.get("/tenants/{tenant_id}/routes/{name:path}")
async def get(tenant_id: TenantId, name: Name, admin: Admin) -> StoredRouteJson:
    """One of the tenant's own routes."""
    return await _get(admin, tenant_id, name)


@router.put("/routes/{name:path}")
async def put_shared(name: Name, body: RouteJson, admin: Admin, response: Response) -> StoredRouteJson:
    """Make or replace a shared route; an adapter in it is the calling tenant's own."""
    return await _put(admin, StoredRoute(name, None, body), response)


@router.put("/tenants/{tenant_id}/routes/{name:path}")
async def put(tenant_id: TenantId, name: Name, body: RouteJson, admin: Admin, response: Response) -> StoredRouteJson:
    """Make or replace a route of one tenant, which goes before a shared one of the same name."""
    return await _put(admin, StoredRoute(name, tenant_id, body), response)


@router.delete("/routes/{name:path}", status_code=204)
async def delete_shared(name: Name, admin: Admin) -> None:
    """Delete a shared route."""
    async with admin.change() as change:
        await routes.delete(change, None, name)


@router.delete("/tenants/{tenant_id}/routes/{name:path}", status_code=204)
async def delete(tenant_id: TenantId, name: Name, admin: Admin) -> None:
    """Delete a route of one tenant."""
    async with admin.change() as change:
        await routes.delete(change, tenant_id, name)


async def _listing(admin: AdminServices, tenant_id: str | None, part: Part) -> Listing[StoredRouteJson]:
    async with admin.read() as connection:
        page = await routes.listing(connection, tenant_id, after=part.after, limit=part.limit)
    return Listing[StoredRouteJson].of(page, StoredRouteJson.of)


async def _get(admin: AdminServices, tenant_id: str | None, name: str) -> StoredRouteJson:
    async with admin.read() as connection:
        return StoredRouteJson.of(await routes.get(connection, tenant_id, name))


async def _put(admin: AdminServices, route: StoredRoute, response: Response) -> StoredRouteJson:
    _reachable(admin, route.spec)
    async with admin.change() as change:
        stored, new = await routes.put(change, route)
    response.status_code = 201 if new else 200
    return StoredRouteJson.of(stored)


def _reachable(admin: AdminServices, spec: RouteJson) -> None:
    """Refuse a target that this gateway does not know, or that has no price; names the field."""
    for index, variant in enumerate(spec.variants):
        _target(admin, variant.target, f"variants[{index}].target")
        if variant.fallback is not None:
            _target(admin, variant.fallback, f"variants[{index}].fallback")


def _target(admin: AdminServices, target: TargetJson, field: str) -> None:
    if target.pool is None and (target.adapter is not None or target.alias != CHAMPION):
        raise InvalidRequest(f"{field}: adapter and alias go with a pool only.", param=f"{field}.adapter")
    if target.provider is not None:
        _known(target.provider, admin.providers, f"{field}.provider", "providers")
        _priced(admin, target.provider, target.model or "", f"{field}.model")
    elif target.pool is not None:
        _known(target.pool, frozenset(admin.base_models), f"{field}.pool", "pools")
        _priced(admin, target.pool, target.adapter or admin.base_models[target.pool], f"{field}.pool")
    else:
        _known(target.embedded or "", admin.embedded_models, f"{field}.embedded", "embedded models")


def _known(name: str, known: frozenset[str], field: str, kind: str) -> None:
    if name not in known:
        names = ", ".join(sorted(known)) or "none are configured"
        raise InvalidRequest(f"{field}: expected one of this gateway's {kind} ({names}).", param=field)


def _priced(admin: AdminServices, upstream: str, model: str, field: str) -> None:
    try:
        admin.prices.price(upstream, model)
    except Unavailable as exc:
        message = f"{field}: has no price. Set prices.models['{upstream}/*'] in the gateway's settings first."
        raise InvalidRequest(message, param=field) from exc
