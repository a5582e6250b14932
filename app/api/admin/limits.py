"""`/tenants/{tenant_id}/limits`: limits by user and by route, beside those of tenants, teams and keys themselves."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, Field, model_validator

from app.api.admin.fields import PRINTABLE, Id, LimitsJson, Listing, Part, RouteName, Strict, TenantId
from app.api.admin.guard import Admin, AdminRoute
from app.storage.administration import rules
from app.storage.administration.rules import NamedRule
from app.types import AccountKind, LimitRule, Limits

router = APIRouter(prefix="/tenants/{tenant_id}/limits", tags=["limits"], route_class=AdminRoute)
RuleId = Annotated[Id, Path(description="The name of the rule.")]


class RuleJson(Strict):
    """Whose calls are limited: of a user, or of anybody on one route; without a subject each of that kind by itself."""

    kind: Literal["key", "user", "team", "tenant"]
    user: Annotated[str | None, Field(default=None, pattern=PRINTABLE, min_length=1, max_length=512)]
    subject: Annotated[str | None, Field(default=None, pattern=PRINTABLE, min_length=1, max_length=64)]
    route: RouteName | None = None
    limits: LimitsJson

    @model_validator(mode="after")
    def _makes_sense(self) -> RuleJson:
        if self.kind == "user" and self.subject is not None:
            raise ValueError("expected `user`, the name as the API's callers send it; it is kept as a hash")
        if self.kind != "user" and self.user is not None:
            raise ValueError("expected `subject`, the id of the key or team; `user` belongs to kind `user`")
        if self.kind != "user" and self.route is None:
            raise ValueError("expected a route; limits of all routes stand at the key, team or tenant itself")
        return self


class StoredRuleJson(BaseModel):
    """A rule as it is kept; a user is shown as the hash that stands in the ledger."""

    id: str
    tenant_id: str
    kind: str
    subject: str | None
    route: str | None
    limits: LimitsJson

    @classmethod
    def of(cls, named: NamedRule) -> StoredRuleJson:
        """The rule as JSON."""
        rule = named.rule
        limits = LimitsJson.of(rule.limits)
        return cls(
            id=named.id,
            tenant_id=named.tenant_id,
            kind=rule.kind.value,
            subject=rule.subject,
            route=rule.route,
            limits=limits,
        )


@router.get("")
async def listing(tenant_id: TenantId, admin: Admin, part: Part) -> Listing[StoredRuleJson]:
    """The tenant's rules."""
    async with admin.read() as connection:
        page = await rules.listing(connection, tenant_id, after=part.after, limit=part.limit)
    return Listing[StoredRuleJson].of(page, StoredRuleJson.of)


@router.put("/{rule_id}")
async def put(tenant_id: TenantId, rule_id: RuleId, body: RuleJson, admin: Admin, response: Response) -> StoredRuleJson:
    """Make or replace a rule."""
    subject = body.subject if body.user is None else admin.hash_user(tenant_id, body.user)
    rule = LimitRule(AccountKind(body.kind), subject, body.route, body.limits.onto(Limits()))
    named = NamedRule(tenant_id, rule_id, rule)
    async with admin.change() as change:
        new = await rules.put(change, named)
    response.status_code = 201 if new else 200
    return StoredRuleJson.of(named)


@router.delete("/{rule_id}", status_code=204)
async def delete(tenant_id: TenantId, rule_id: RuleId, admin: Admin) -> None:
    """Take a rule away."""
    async with admin.change() as change:
        await rules.delete(change, tenant_id, rule_id)
