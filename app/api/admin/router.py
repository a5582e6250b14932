"""The admin API as one router: a module for each resource, and the guard before them all."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from app.api.admin import (
    adapters,
    audit,
    cache,
    cold_starts,
    keys,
    limits,
    pools,
    promises,
    provider_keys,
    routes,
    teams,
    tenants,
    usage,
    webhooks,
)
from app.api.admin.guard import authorized

router = APIRouter(prefix="/admin/v1", dependencies=[Depends(authorized)])
for resource in (
    tenants,
    teams,
    keys,
    routes,
    adapters,
    cache,
    promises,
    usage,
    limits,
    audit,
    provider_keys,
    cold_starts,
    pools,
    webhooks,
):
    router.include_router(resource.router)
