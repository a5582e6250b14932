"""`/tenants/{tenant_id}/provider-keys`: keys of providers that a tenant or a team brings; written, never shown."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field, SecretStr

from app.api.admin.fields import Id, Strict, TenantId
from app.api.admin.guard import Admin, AdminRoute
from app.errors import InvalidRequest
from app.storage.administration import provider_keys
from app.storage.administration.provider_keys import WHOLE_TENANT, ProviderKey

router = APIRouter(prefix="/tenants/{tenant_id}/provider-keys", tags=["provider keys"], route_class=AdminRoute)
Provider = Annotated[Id, Path(description="The provider in the gateway's configuration.")]


class NewProviderKey(Strict):
    """A key to keep; calls that use it are recorded, and not charged here."""

    key: Annotated[SecretStr, Field(min_length=8, max_length=1024)]
    team_id: Id | None = None


class ProviderKeyJson(BaseModel):
    """Where a key is kept."""

    provider: str
    tenant_id: str
    team_id: str | None

    @classmethod
    def of(cls, key: ProviderKey) -> ProviderKeyJson:
        """The same as JSON."""
        return cls(provider=key.provider, tenant_id=key.tenant_id, team_id=key.team_id or None)


class ProviderKeys(BaseModel):
    """All of a tenant's."""

    object: str = "list"
    data: list[ProviderKeyJson]


@router.get("")
async def listing(tenant_id: TenantId, admin: Admin) -> ProviderKeys:
    """Which keys the tenant and its teams have brought."""
    async with admin.read() as connection:
        found = await provider_keys.listing(connection, tenant_id)
    return ProviderKeys(data=[ProviderKeyJson.of(key) for key in found])


@router.put("/{provider}")
async def put(tenant_id: TenantId, provider: Provider, body: NewProviderKey, admin: Admin) -> ProviderKeyJson:
    """Keep or replace the tenant's (or its team's) own key of a provider, sealed."""
    if provider not in admin.providers:
        raise InvalidRequest(f"The provider '{provider}' is not configured here.", param="provider")
    key = ProviderKey(tenant_id, body.team_id or WHOLE_TENANT, provider)
    async with admin.change() as change:
        await provider_keys.put(change, key, admin.seal(body.key.get_secret_value(), key.place))
    return ProviderKeyJson.of(key)


@router.delete("/{provider}", status_code=204)
async def delete(tenant_id: TenantId, provider: Provider, admin: Admin, team_id: Id | None = None) -> None:
    """Forget a key."""
    async with admin.change() as change:
        await provider_keys.delete(change, ProviderKey(tenant_id, team_id or WHOLE_TENANT, provider))
