"""`/tenants`: the customers of the gateway and what each may use in all."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter
from pydantic import BaseModel

from app.api.admin.fields import Id, LimitsJson, Listing, Part, Strict, TenantId, Title, sent
from app.api.admin.guard import Admin, AdminRoute
from app.storage.administration import tenants
from app.storage.administration.tenants import Tenant
from app.types import Limits

router = APIRouter(prefix="/tenants", tags=["tenants"], route_class=AdminRoute)


class NewTenant(Strict):
    """A tenant to make."""

    id: Id
    name: Title | None = None
    limits: LimitsJson = LimitsJson()


class TenantPatch(Strict):
    """What to change; fields that are not sent stay, null takes a value away."""

    name: Title | None = None
    limits: LimitsJson = LimitsJson()


class TenantJson(BaseModel):
    """A tenant."""

    id: str
    name: str | None
    limits: LimitsJson
    created_at: float

    @classmethod
    def of(cls, tenant: Tenant) -> TenantJson:
        """The same as JSON."""
        return cls(id=tenant.id, name=tenant.name, limits=LimitsJson.of(tenant.limits), created_at=tenant.created_at)


@router.post("", status_code=201)
async def create(body: NewTenant, admin: Admin) -> TenantJson:
    """Make a tenant."""
    tenant = Tenant(body.id, body.name, body.limits.onto(Limits()))
    async with admin.change() as change:
        made = await tenants.create(change, tenant)
    return TenantJson.of(made)


@router.get("")
async def listing(admin: Admin, part: Part) -> Listing[TenantJson]:
    """Tenants by id."""
    async with admin.read() as connection:
        page = await tenants.listing(connection, after=part.after, limit=part.limit)
    return Listing[TenantJson].of(page, TenantJson.of)


@router.get("/{tenant_id}")
async def get(tenant_id: TenantId, admin: Admin) -> TenantJson:
    """One tenant."""
    async with admin.read() as connection:
        return TenantJson.of(await tenants.get(connection, tenant_id))


@router.patch("/{tenant_id}")
async def edit(tenant_id: TenantId, body: TenantPatch, admin: Admin) -> TenantJson:
    """Change a tenant's name or limits."""

    def edited(tenant: Tenant) -> Tenant:
        return replace(tenant, **sent(body, "name"), limits=body.limits.onto(tenant.limits))

    async with admin.change() as change:
        changed = await tenants.edit(change, tenant_id, edited)
    return TenantJson.of(changed)


@router.delete("/{tenant_id}", status_code=204)
async def delete(tenant_id: TenantId, admin: Admin) -> None:
    """Delete a tenant with all that belongs to it; its keys are refused at once, its ledger stays."""
    async with admin.change() as change:
        await tenants.delete(change, tenant_id)
