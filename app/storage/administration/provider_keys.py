"""Provider keys that tenants and teams bring: sealed in SQL, and never shown again."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import NotFound
from app.storage.administration import teams, tenants
from app.storage.administration.change import Change
from app.storage.tables import provider_keys

WHOLE_TENANT = ""  # the team of a key that all of a tenant uses


@dataclass(frozen=True, slots=True)
class ProviderKey:
    """Where a key is kept; what it is stays sealed."""

    tenant_id: str
    team_id: str
    provider: str

    @property
    def place(self) -> tuple[str, str, str]:
        """What the seal is bound to."""
        return self.tenant_id, self.team_id, self.provider


async def put(change: Change, key: ProviderKey, sealed: bytes) -> None:
    """Keep or replace a key; raises NotFound without its tenant or team."""
    await tenants.get(change.connection, key.tenant_id)
    if key.team_id != WHOLE_TENANT:
        await teams.get(change.connection, key.tenant_id, key.team_id)
    values = {"sealed_key": sealed, **change.new()}
    done = await change.connection.execute(update(provider_keys).where(*_at(key)).values(values))
    if not done.rowcount:
        made = {"tenant_id": key.tenant_id, "team_id": key.team_id, "provider": key.provider, **values}
        await change.connection.execute(provider_keys.insert().values(made))


async def listing(connection: AsyncConnection, tenant_id: str) -> list[ProviderKey]:
    """The keys that a tenant and its teams have brought; raises NotFound without the tenant."""
    await tenants.get(connection, tenant_id)
    query = select(provider_keys).where(provider_keys.c.tenant_id == tenant_id, ~provider_keys.c.deleted)
    rows = await connection.execute(query.order_by(provider_keys.c.team_id, provider_keys.c.provider))
    return [ProviderKey(row.tenant_id, row.team_id, row.provider) for row in rows]


async def delete(change: Change, key: ProviderKey) -> None:
    """Forget a key; its sealed bytes are overwritten. Raises NotFound."""
    marked = {"deleted": True, "sealed_key": b"", "revision": change.revision}
    there = (*_at(key), ~provider_keys.c.deleted)
    done = await change.connection.execute(update(provider_keys).where(*there).values(marked))
    if not done.rowcount:
        raise NotFound("No such provider key is kept here.", param="provider")


def _at(key: ProviderKey) -> tuple[ColumnElement[bool], ...]:
    return (
        provider_keys.c.tenant_id == key.tenant_id,
        provider_keys.c.team_id == key.team_id,
        provider_keys.c.provider == key.provider,
    )
