"""`/tenants/{tenant_id}/adapters`: LoRA adapters: immutable versions, and the aliases that routes name them by."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, Field

from app.api.admin.fields import PRINTABLE, Id, Listing, Part, Strict, TenantId
from app.api.admin.guard import Admin, AdminRoute
from app.storage.administration import adapters, tenants
from app.storage.administration.adapters import Alias, StoredVersion
from app.storage.artifacts import import_adapter

router = APIRouter(prefix="/tenants/{tenant_id}/adapters", tags=["adapters"], route_class=AdminRoute)
VERSION_PATTERN = r"^[a-z0-9-]+@[0-9a-f]{12}$"
VersionId = Annotated[str, Path(pattern=VERSION_PATTERN, max_length=160, description="tenant--name@sha12.")]


class NewAdapter(Strict):
    """An adapter to import, and the alias that shall mean it from then on."""

    name: Id
    path: str = Field(
        pattern=PRINTABLE,
        max_length=4096,
        description="A folder on the gateway's machine with adapter_config.json and adapter_model.safetensors.",
    )
    alias: Id | None = None


class AliasTarget(Strict):
    """What an alias shall mean."""

    version: str = Field(pattern=VERSION_PATTERN, max_length=160, description="A version's id: tenant--name@sha12.")


class VersionJson(BaseModel):
    """A version and the aliases that mean it."""

    id: str
    tenant_id: str
    name: str
    sha256: str
    base_model: str
    rank: int
    path: str
    aliases: list[str]
    created_at: float

    @classmethod
    def of(cls, stored: StoredVersion) -> VersionJson:
        """The same as JSON."""
        version = stored.version
        return cls(
            id=version.id,
            tenant_id=version.tenant_id,
            name=version.name,
            sha256=version.sha256,
            base_model=version.base_model,
            rank=version.rank,
            path=version.path,
            aliases=list(stored.aliases),
            created_at=stored.created_at,
        )


class AliasJson(BaseModel):
    """An alias and its version."""

    name: str
    alias: str
    version: str


@router.post("", status_code=201)
async def create(tenant_id: TenantId, body: NewAdapter, admin: Admin, response: Response) -> VersionJson:
    """Import an adapter. The same bytes are the same version: then the answer is 200 and only the alias may change."""
    async with admin.read() as connection:
        await tenants.get(connection, tenant_id)
    version = await asyncio.to_thread(import_adapter, admin.artifacts, tenant_id, body.name, body.path)
    async with admin.change() as change:
        new = await adapters.register(change, version)
        if body.alias is not None:
            await adapters.point(change, Alias(tenant_id, body.name, body.alias, version.id))
        stored = await adapters.get(change.connection, tenant_id, body.name, version.id)
    response.status_code = 201 if new else 200
    return VersionJson.of(stored)


@router.get("")
async def listing(tenant_id: TenantId, admin: Admin, part: Part) -> Listing[VersionJson]:
    """Every version of every adapter, by id."""
    async with admin.read() as connection:
        page = await adapters.listing(connection, tenant_id, after=part.after, limit=part.limit)
    return Listing[VersionJson].of(page, VersionJson.of)


@router.get("/{name}/versions")
async def versions(tenant_id: TenantId, name: Id, admin: Admin, part: Part) -> Listing[VersionJson]:
    """The versions of one adapter, by id."""
    async with admin.read() as connection:
        page = await adapters.listing(connection, tenant_id, name=name, after=part.after, limit=part.limit)
    return Listing[VersionJson].of(page, VersionJson.of)


@router.get("/{name}/versions/{version}")
async def get(tenant_id: TenantId, name: Id, version: VersionId, admin: Admin) -> VersionJson:
    """One version."""
    async with admin.read() as connection:
        return VersionJson.of(await adapters.get(connection, tenant_id, name, version))


@router.put("/{name}/aliases/{alias}")
async def point(tenant_id: TenantId, name: Id, alias: Id, body: AliasTarget, admin: Admin) -> AliasJson:
    """Let an alias mean another version; calls already running finish on the one they began with."""
    async with admin.change() as change:
        await adapters.point(change, Alias(tenant_id, name, alias, body.version))
    return AliasJson(name=name, alias=alias, version=body.version)


@router.delete("/{name}/aliases/{alias}", status_code=204)
async def drop(tenant_id: TenantId, name: Id, alias: Id, admin: Admin) -> None:
    """Take an alias away; routes that name it answer 404 from then on."""
    async with admin.change() as change:
        await adapters.drop(change, tenant_id, name, alias)
