"""Teams of a tenant in SQL. A team with keys that work cannot be deleted: its limits would silently end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import Conflict, NotFound
from app.storage.administration import tenants
from app.storage.administration.change import Change, Page, Row, limit_columns, limits_of, page
from app.storage.tables import keys, teams
from app.types import Limits


@dataclass(frozen=True, slots=True)
class Team:
    """A part of a tenant with limits of its own."""

    tenant_id: str
    id: str
    name: str | None
    limits: Limits
    created_at: float = 0.0


async def create(change: Change, team: Team) -> Team:
    """Insert a team; raises NotFound without its tenant, Conflict when its id is taken or was."""
    await tenants.get(change.connection, team.tenant_id)
    place = (teams.c.tenant_id == team.tenant_id, teams.c.id == team.id)
    known = await change.connection.scalar(select(teams.c.deleted).where(*place))
    if known is not None:
        state = "was used by a deleted team and is not used again" if known else "is taken"
        raise Conflict(f"This team id {state}. Choose another one.", param="id")
    names = {"tenant_id": team.tenant_id, "id": team.id, "name": team.name}
    values = {**names, **limit_columns(team.limits), **change.new()}
    await change.connection.execute(teams.insert().values(values))
    return _team(values)


async def get(connection: AsyncConnection, tenant_id: str, team_id: str) -> Team:
    """The tenant's team; raises NotFound."""
    query = select(teams).where(teams.c.tenant_id == tenant_id, teams.c.id == team_id, ~teams.c.deleted)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound("The tenant has no such team.", param="team")
    return _team(row)


async def listing(connection: AsyncConnection, tenant_id: str, *, after: str | None, limit: int) -> Page[Team]:
    """The tenant's teams in the order of their ids; raises NotFound without the tenant."""
    await tenants.get(connection, tenant_id)
    query = select(teams).where(teams.c.tenant_id == tenant_id, ~teams.c.deleted)
    return await page(connection, query, teams.c.id, _team, after=after, limit=limit)


async def edit(change: Change, tenant_id: str, team_id: str, edited: Callable[[Team], Team]) -> Team:
    """Replace name and limits by what `edited` makes of the present ones; raises NotFound."""
    team = edited(await get(change.connection, tenant_id, team_id))
    values = {"name": team.name, **limit_columns(team.limits), "revision": change.revision}
    place = (teams.c.tenant_id == tenant_id, teams.c.id == team_id)
    await change.connection.execute(update(teams).where(*place).values(values))
    return team


async def delete(change: Change, tenant_id: str, team_id: str) -> None:
    """Mark the team as deleted; raises NotFound, or Conflict while it has keys that work."""
    await get(change.connection, tenant_id, team_id)
    alive = (keys.c.tenant_id == tenant_id, keys.c.team_id == team_id, ~keys.c.deleted, keys.c.revoked_at.is_(None))
    if await change.connection.scalar(select(func.count()).select_from(keys).where(*alive)):
        raise Conflict("The team has keys that work. Revoke them first.", param="team")
    place = (teams.c.tenant_id == tenant_id, teams.c.id == team_id)
    await change.connection.execute(update(teams).where(*place).values({"deleted": True, "revision": change.revision}))


def _team(row: Row) -> Team:
    return Team(row["tenant_id"], row["id"], row["name"], limits_of(row), row["created_at"])
