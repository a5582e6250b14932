"""`/tenants/{tenant_id}/cold-start`: what a tenant's calls do while their adapter is not loaded yet."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from app.api.admin.fields import Strict, TenantId
from app.api.admin.guard import Admin, AdminRoute
from app.storage.administration import cold_starts
from app.types import ColdStart

router = APIRouter(prefix="/tenants/{tenant_id}/cold-start", tags=["adapters"], route_class=AdminRoute)


class ColdStartJson(Strict):
    """A call waits for its adapter; then the version before it answers, if the tenant allows it; else it gets 503."""

    wait_ms: Annotated[int | None, Field(strict=True, ge=1, le=600_000)] = Field(
        default=None, description="Longest wait for a load, in milliseconds; null is the pool's load time."
    )
    previous: bool = Field(default=False, description="True: after the wait the alias's last version may answer.")


@router.get("")
async def get(tenant_id: TenantId, admin: Admin) -> ColdStartJson:
    """The tenant's rule."""
    async with admin.read() as connection:
        rule = await cold_starts.get(connection, tenant_id)
    return ColdStartJson(wait_ms=rule.wait_ms, previous=rule.previous)


@router.put("")
async def put(tenant_id: TenantId, body: ColdStartJson, admin: Admin) -> ColdStartJson:
    """Set the tenant's rule."""
    async with admin.change() as change:
        await cold_starts.put(change, tenant_id, ColdStart(body.wait_ms, body.previous))
    return body
