"""`/pools`: the servers as this gateway process sees them: who is well, what is loaded where, what was refused."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter
from pydantic import BaseModel

from app.api.admin.guard import Admin, AdminRoute

router = APIRouter(prefix="/pools", tags=["pools"], route_class=AdminRoute)


class ReplicaJson(BaseModel):
    """One server.

    `in_flight` and `adapters_in_flight` count the calls of all gateways; `held` for a slot, `loading` their adapter and
    `running` are those of the gateway that answers. `gpu` and `host` are least recently used first; `refused` says why
    a version was not loaded.
    """

    url: str
    healthy: bool
    in_flight: int
    adapters_in_flight: int
    held: int
    loading: int
    running: int
    restarts: int
    has_plugin: bool
    registered: list[str]
    gpu: list[str]
    host: list[str]
    refused: dict[str, str]


class PoolJson(BaseModel):
    """One pool; `waiting` are calls of the gateway that answers which wait for room on any server."""

    name: str
    base_model: str
    waiting: int
    replicas: list[ReplicaJson]


class PoolsJson(BaseModel):
    """Every pool."""

    object: str = "list"
    data: list[PoolJson]


@router.get("")
async def listing(admin: Admin) -> PoolsJson:
    """Every pool and its servers, as this process sees them now."""
    return PoolsJson(data=[PoolJson(**asdict(pool)) for pool in admin.pools()])
