"""`/tenants/{tenant_id}/keys`: API keys. The answer to POST is the only place where a secret is ever shown."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from app.api.admin.fields import Id, LimitsJson, Listing, Part, RouteName, Strict, TenantId, Title, sent
from app.api.admin.guard import Admin, AdminRoute
from app.auth.api_keys import new_key
from app.errors import InvalidRequest
from app.storage.administration import keys
from app.storage.administration.keys import Key
from app.types import Limits, Operation

router = APIRouter(prefix="/tenants/{tenant_id}/keys", tags=["keys"], route_class=AdminRoute)
KeyId = Annotated[str, Path(pattern=r"^key_[0-9a-f]{24}$", description="The key's id, not its secret.")]
Operations = Annotated[frozenset[Operation], Field(min_length=1, description="What the key may ask for.")]
Routes = Annotated[frozenset[RouteName], Field(max_length=500, description="Models it may name; null is all.")]
Expiry = Annotated[float, Field(gt=0, le=10**11, allow_inf_nan=False, description="Seconds since the epoch (UTC).")]


class NewKeyJson(Strict):
    """A key to make."""

    name: Title | None = None
    team_id: Id | None = None
    operations: Operations = frozenset(Operation)
    routes: Routes | None = None
    limits: LimitsJson = LimitsJson()
    expires_at: Expiry | None = None


class KeyPatch(Strict):
    """What to change; fields that are not sent stay, null takes a value away."""

    name: Title | None = None
    operations: Operations = frozenset(Operation)
    routes: Routes | None = None
    limits: LimitsJson = LimitsJson()
    expires_at: Expiry | None = None


class RotationJson(Strict):
    """How a key is rotated."""

    overlap_seconds: int = Field(
        default=86_400, ge=0, le=30 * 86_400, description="How long the present secret works beside the new one."
    )


class KeyJson(BaseModel):
    """A key without its secret."""

    id: str
    tenant_id: str
    team_id: str | None
    name: str | None
    prefix: str
    operations: list[Operation]
    routes: list[str] | None
    limits: LimitsJson
    created_at: float
    expires_at: float | None
    revoked_at: float | None

    @classmethod
    def of(cls, key: Key) -> KeyJson:
        """The same as JSON."""
        return cls(
            id=key.id,
            tenant_id=key.tenant_id,
            team_id=key.team_id,
            name=key.name,
            prefix=key.prefix,
            operations=sorted(key.operations),
            routes=None if key.routes is None else sorted(key.routes),
            limits=LimitsJson.of(key.limits),
            created_at=key.created_at,
            expires_at=key.expires_at,
            revoked_at=key.revoked_at,
        )


class SecretKeyJson(KeyJson):
    """A key with its secret, which is shown this once."""

    secret: str


@router.post("", status_code=201)
async def create(tenant_id: TenantId, body: NewKeyJson, admin: Admin) -> SecretKeyJson:
    """Make a key; keep the `secret` of the answer, it cannot be shown again."""
    if body.expires_at is not None and body.expires_at <= time.time():
        raise InvalidRequest(
            "expires_at: expected an instant in the future, in seconds since 1970.", param="expires_at"
        )
    made = new_key()
    key = Key(
        id=f"key_{secrets.token_hex(12)}",
        tenant_id=tenant_id,
        team_id=body.team_id,
        name=body.name,
        prefix=made.prefix,
        digest=made.digest,
        operations=body.operations,
        routes=body.routes,
        limits=body.limits.onto(Limits()),
        expires_at=body.expires_at,
    )
    async with admin.change() as change:
        stored = await keys.create(change, key)
    return SecretKeyJson(**KeyJson.of(stored).model_dump(), secret=made.secret)


@router.get("")
async def listing(tenant_id: TenantId, admin: Admin, part: Part) -> Listing[KeyJson]:
    """Keys by id, revoked ones too; of the secret only the first characters."""
    async with admin.read() as connection:
        page = await keys.listing(connection, tenant_id, after=part.after, limit=part.limit)
    return Listing[KeyJson].of(page, KeyJson.of)


@router.get("/{key_id}")
async def get(tenant_id: TenantId, key_id: KeyId, admin: Admin) -> KeyJson:
    """One key."""
    async with admin.read() as connection:
        return KeyJson.of(await keys.get(connection, tenant_id, key_id))


@router.patch("/{key_id}")
async def edit(tenant_id: TenantId, key_id: KeyId, body: KeyPatch, admin: Admin) -> KeyJson:
    """Change a key's name, scopes, limits or expiry."""

    def edited(key: Key) -> Key:
        values = sent(body, "name", "operations", "routes", "expires_at")
        return replace(key, **values, limits=body.limits.onto(key.limits))

    async with admin.change() as change:
        changed = await keys.edit(change, tenant_id, key_id, edited)
    return KeyJson.of(changed)


@router.post("/{key_id}/rotate")
async def rotate(tenant_id: TenantId, key_id: KeyId, body: RotationJson, admin: Admin) -> SecretKeyJson:
    """Give a key a new secret; the present one works on for the overlap. Id, limits and ledger stay the key's own."""
    made, until = new_key(), time.time() + body.overlap_seconds
    async with admin.change() as change:
        rotated = await keys.rotate(change, tenant_id, key_id, digest=made.digest, prefix=made.prefix, until=until)
    return SecretKeyJson(**KeyJson.of(rotated).model_dump(), secret=made.secret)


@router.post("/{key_id}/revoke")
async def revoke(tenant_id: TenantId, key_id: KeyId, admin: Admin) -> KeyJson:
    """Let a key work no more, for ever; every gateway refuses it within a second."""
    async with admin.change() as change:
        revoked = await keys.revoke(change, tenant_id, key_id)
    return KeyJson.of(revoked)
