"""The admin API as one router: a module for each resource, and the guard before them all."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from app.api.admin import adapters, cache, keys, routes, teams, tenants, usage
from app.api.admin.guard import authorized

router = APIRouter(prefix="/admin/v1", dependencies=[Depends(authorized)])
for resource in (tenants, teams, keys, routes, adapters, cache, usage):
    router.include_router(resource.router)
