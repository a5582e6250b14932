"""`/tenants/{tenant_id}/teams`: parts of a tenant with limits of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from app.api.admin.fields import Id, LimitsJson, Listing, Part, Strict, TenantId, Title, sent
from app.api.admin.guard import Admin, AdminRoute
from app.storage.administration import teams
from app.storage.administration.teams import Team
from app.types import Limits

router = APIRouter(prefix="/tenants/{tenant_id}/teams", tags=["teams"], route_class=AdminRoute)
TeamId = Annotated[Id, Path(description="The team.")]


class NewTeam(Strict):
    """A team to make."""

    id: Id
    name: Title | None = None
    limits: LimitsJson = LimitsJson()


class TeamPatch(Strict):
    """What to change; fields that are not sent stay, null takes a value away."""

    name: Title | None = None
    limits: LimitsJson = LimitsJson()


class TeamJson(BaseModel):
    """A team."""

    id: str
    tenant_id: str
    name: str | None
    limits: LimitsJson
    created_at: float

    @classmethod
    def of(cls, team: Team) -> TeamJson:
        """The same as JSON."""
        limits = LimitsJson.of(team.limits)
        return cls(id=team.id, tenant_id=team.tenant_id, name=team.name, limits=limits, created_at=team.created_at)


@router.post("", status_code=201)
async def create(tenant_id: TenantId, body: NewTeam, admin: Admin) -> TeamJson:
    """Make a team."""
    team = Team(tenant_id, body.id, body.name, body.limits.onto(Limits()))
    async with admin.change() as change:
        made = await teams.create(change, team)
    return TeamJson.of(made)


@router.get("")
async def listing(tenant_id: TenantId, admin: Admin, part: Part) -> Listing[TeamJson]:
    """Teams by id."""
    async with admin.read() as connection:
        page = await teams.listing(connection, tenant_id, after=part.after, limit=part.limit)
    return Listing[TeamJson].of(page, TeamJson.of)


@router.get("/{team_id}")
async def get(tenant_id: TenantId, team_id: TeamId, admin: Admin) -> TeamJson:
    """One team."""
    async with admin.read() as connection:
        return TeamJson.of(await teams.get(connection, tenant_id, team_id))


@router.patch("/{team_id}")
async def edit(tenant_id: TenantId, team_id: TeamId, body: TeamPatch, admin: Admin) -> TeamJson:
    """Change a team's name or limits."""

    def edited(team: Team) -> Team:
        return replace(team, **sent(body, "name"), limits=body.limits.onto(team.limits))

    async with admin.change() as change:
        changed = await teams.edit(change, tenant_id, team_id, edited)
    return TeamJson.of(changed)


@router.delete("/{team_id}", status_code=204)
async def delete(tenant_id: TenantId, team_id: TeamId, admin: Admin) -> None:
    """Delete a team that has no key that works."""
    async with admin.change() as change:
        await teams.delete(change, tenant_id, team_id)
