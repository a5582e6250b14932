"""`/tenants/{tenant_id}/webhooks`: where a tenant's events are sent. Signed as Standard Webhooks, as OpenAI signs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from app.api.admin.fields import Listing, Part, Strict, TenantId
from app.api.admin.guard import Admin, AdminRoute
from app.api.admin.services import AdminServices
from app.errors import InvalidRequest
from app.recording.egress import check_url
from app.recording.webhooks import endpoint_secret
from app.storage import outbox
from app.storage.administration import tenants
from app.storage.outbox import EVERY, Endpoint

router = APIRouter(prefix="/tenants/{tenant_id}/webhooks", tags=["webhooks"], route_class=AdminRoute)
EndpointId = Annotated[str, Path(pattern=r"^whe_[0-9a-f]{24}$", description="The endpoint.")]
EventType = Annotated[str, Field(pattern=r"^(\*|[a-z_]+(\.[a-z_]+)+)$", max_length=100)]


class NewEndpoint(Strict):
    """An endpoint to make."""

    url: str = Field(max_length=2000, description="https:// and a public address.")
    events: list[EventType] = Field(default=[EVERY], min_length=1, max_length=50, description="Types; `*` is all.")


class EndpointJson(BaseModel):
    """An endpoint. `disabled_at` is set when it has not taken anything for days; POST …/revive switches it on."""

    id: str
    tenant_id: str
    url: str
    events: list[str]
    created_at: float
    failing_since: float | None
    disabled_at: float | None
    secret: str

    @classmethod
    def of(cls, admin: AdminServices, endpoint: Endpoint) -> EndpointJson:
        """The same as JSON, with the secret that its receiver verifies by."""
        return cls(
            id=endpoint.id,
            tenant_id=endpoint.tenant_id,
            url=endpoint.url,
            events=list(endpoint.events),
            created_at=endpoint.created_at,
            failing_since=endpoint.failing_since,
            disabled_at=endpoint.disabled_at,
            secret=endpoint_secret(admin.webhook_key, endpoint.id),
        )


@router.post("", status_code=201)
async def create(tenant_id: TenantId, body: NewEndpoint, admin: Admin) -> EndpointJson:
    """Make an endpoint; events from now on are sent there until it answers 2xx, for up to three days each."""
    problem = check_url(body.url, allow_private=admin.private_webhooks)
    if problem is not None:
        raise InvalidRequest(f"url: {problem}.", param="url")
    async with admin.change() as change:
        await tenants.get(change.connection, tenant_id)
        made = await outbox.add_endpoint(change.connection, tenant_id, body.url, body.events, now=change.now)
    return EndpointJson.of(admin, made)


@router.get("")
async def listing(tenant_id: TenantId, admin: Admin, part: Part) -> Listing[EndpointJson]:
    """The tenant's endpoints by id."""
    async with admin.read() as connection:
        await tenants.get(connection, tenant_id)
        page = await outbox.list_endpoints(connection, tenant_id, after=part.after, limit=part.limit)
    return Listing[EndpointJson].of(page, lambda endpoint: EndpointJson.of(admin, endpoint))


@router.post("/{endpoint_id}/revive")
async def revive(tenant_id: TenantId, endpoint_id: EndpointId, admin: Admin) -> EndpointJson:
    """Switch an endpoint on again, and send it everything that has not arrived."""
    async with admin.change() as change:
        made = await outbox.revive_endpoint(change.connection, tenant_id, endpoint_id, now=change.now)
    return EndpointJson.of(admin, made)


@router.delete("/{endpoint_id}", status_code=204)
async def delete(tenant_id: TenantId, endpoint_id: EndpointId, admin: Admin) -> None:
    """Delete an endpoint, and what was still to be sent there."""
    async with admin.change() as change:
        await outbox.drop_endpoint(change.connection, tenant_id, endpoint_id)
