"""`/tenants/{tenant_id}/adapters`: LoRA adapters: immutable versions, and the aliases that routes name them by."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, Field, field_validator, model_validator

from app.api.admin.fields import PRINTABLE, Id, Listing, Part, Strict, TenantId
from app.api.admin.guard import Admin, AdminRoute
from app.storage.administration import adapters, lifecycle, tenants
from app.storage.administration.adapters import StoredVersion
from app.storage.administration.lifecycle import Alias, State
from app.storage.artifacts import import_adapter

router = APIRouter(prefix="/tenants/{tenant_id}/adapters", tags=["adapters"], route_class=AdminRoute)
MAX_LINEAGE_BYTES = 16 * 1024
VERSION_PATTERN = r"^[a-z0-9-]+@[0-9a-f]{12}$"
VersionId = Annotated[str, Path(pattern=VERSION_PATTERN, max_length=160, description="tenant--name@sha12.")]


class NewAdapter(Strict):
    """An adapter to import, and the alias that shall mean it from then on."""

    name: Id
    path: str = Field(
        pattern=PRINTABLE,
        max_length=4096,
        description="A folder on the gateway's machine, or s3://bucket/folder, with adapter_config.json and"
        " adapter_model.safetensors.",
    )
    alias: Id | None = None
    pending: bool = Field(default=False, description="True: no alias can mean it before it is made ready.")
    lineage: dict[str, Any] | None = Field(
        default=None,
        description="Where it comes from: data hash, base revision, configuration, code, metrics. `next_tokens` (prompt"
        " to next tokens to log probabilities) is compared with what a server answers before the first call there.",
    )
    signature: str | None = Field(
        default=None, max_length=200, description="ed25519 over the content hash, in hexadecimal digits."
    )

    @field_validator("lineage")
    @classmethod
    def _short(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and len(msgspec.json.encode(value)) > MAX_LINEAGE_BYTES:
            raise ValueError(f"expected at most {MAX_LINEAGE_BYTES} bytes of JSON")
        try:
            msgspec.convert((value or {}).get("next_tokens", {}), dict[str, dict[str, float]])
        except msgspec.ValidationError as exc:
            raise ValueError("next_tokens: expected prompts, each with next tokens and log probabilities") from exc
        return value

    @model_validator(mode="after")
    def _callable(self) -> NewAdapter:
        if self.pending and self.alias is not None:
            raise ValueError("a pending version cannot be given an alias")
        return self


class AliasTarget(Strict):
    """What an alias shall mean; with `expected`, only if it means that version (or, null, nothing) now."""

    version: str = Field(pattern=VERSION_PATTERN, max_length=160, description="A version's id: tenant--name@sha12.")
    expected: str | None = Field(
        default=None, pattern=VERSION_PATTERN, max_length=160, description="Compare-and-set: 409 if it means another."
    )


class NewState(Strict):
    """Where a version shall be in its life."""

    state: State
    reason: str | None = Field(default=None, pattern=PRINTABLE, max_length=500)


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
    state: State
    state_reason: str | None
    lineage: dict[str, Any] | None
    signed_by: str | None
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
            state=stored.state,
            state_reason=stored.state_reason,
            lineage=None if stored.lineage is None else dict(stored.lineage),
            signed_by=stored.signed_by,
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
    version = await asyncio.to_thread(
        import_adapter, admin.artifacts, tenant_id, body.name, body.path, bases=admin.bases, s3=admin.s3
    )
    signed_by = admin.signers.signer(version.sha256, body.signature)
    state = State.PENDING if body.pending else State.READY
    async with admin.change() as change:
        new = await adapters.register(change, version, state=state, lineage=body.lineage, signed_by=signed_by)
        if body.alias is not None:
            await lifecycle.point(change, Alias(tenant_id, body.name, body.alias, version.id))
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


@router.put("/{name}/versions/{version}/state")
async def move(tenant_id: TenantId, name: Id, version: VersionId, body: NewState, admin: Admin) -> VersionJson:
    """Bring a version into another state: ready, draining, retired, failed. Aliased versions are moved off first."""
    async with admin.change() as change:
        await adapters.get(change.connection, tenant_id, name, version)
        await lifecycle.move(change, version, body.state, body.reason)
        return VersionJson.of(await adapters.get(change.connection, tenant_id, name, version))


@router.put("/{name}/aliases/{alias}")
async def point(tenant_id: TenantId, name: Id, alias: Id, body: AliasTarget, admin: Admin) -> AliasJson:
    """Let an alias mean another version; calls already running finish on the one they began with."""
    expected = body.expected if "expected" in body.model_fields_set else lifecycle.ANYTHING
    async with admin.change() as change:
        await lifecycle.point(change, Alias(tenant_id, name, alias, body.version), expected=expected)
    return AliasJson(name=name, alias=alias, version=body.version)


@router.post("/{name}/aliases/{alias}/rollback")
async def roll_back(tenant_id: TenantId, name: Id, alias: Id, admin: Admin) -> AliasJson:
    """Let an alias mean what it meant before its last move."""
    async with admin.change() as change:
        back = await lifecycle.roll_back(change, tenant_id, name, alias)
    return AliasJson(name=name, alias=alias, version=back.version_id)


@router.delete("/{name}/aliases/{alias}", status_code=204)
async def drop(tenant_id: TenantId, name: Id, alias: Id, admin: Admin) -> None:
    """Take an alias away; routes that name it answer 404 from then on."""
    async with admin.change() as change:
        await lifecycle.drop(change, tenant_id, name, alias)
