"""Adapter versions and aliases in SQL. A version never changes; an alias is a name that points at one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import NotFound
from app.storage.administration import tenants
from app.storage.administration.change import Change, Page, Row, page
from app.storage.tables import adapter_versions, aliases
from app.types import AdapterVersion


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A registered version and the aliases that point at it now, sorted."""

    version: AdapterVersion
    aliases: tuple[str, ...]
    created_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Alias:
    """What `name@alias` means for a tenant."""

    tenant_id: str
    name: str
    alias: str
    version_id: str


async def register(change: Change, version: AdapterVersion) -> bool:
    """Make an imported version known; False when it is already. Raises NotFound without its tenant."""
    await tenants.get(change.connection, version.tenant_id)
    known = select(adapter_versions.c.id).where(adapter_versions.c.id == version.id)
    if await change.connection.scalar(known) is not None:
        return False
    await change.connection.execute(adapter_versions.insert().values({**asdict(version), **change.new()}))
    return True


async def get(connection: AsyncConnection, tenant_id: str, name: str, version_id: str) -> StoredVersion:
    """The version of the tenant's adapter; raises NotFound."""
    query = _versions(tenant_id).where(adapter_versions.c.name == name, adapter_versions.c.id == version_id)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound("The tenant's adapter has no such version.", param="version")
    return _stored(row, await _aliases(connection, tenant_id))


async def listing(
    connection: AsyncConnection, tenant_id: str, *, name: str | None = None, after: str | None, limit: int
) -> Page[StoredVersion]:
    """The tenant's versions (of one adapter, if named) in the order of their ids; raises NotFound."""
    await tenants.get(connection, tenant_id)
    known = await _aliases(connection, tenant_id)
    query = _versions(tenant_id)
    if name is not None:
        query = query.where(adapter_versions.c.name == name)
    return await page(
        connection, query, adapter_versions.c.id, lambda row: _stored(row, known), after=after, limit=limit
    )


async def point(change: Change, alias: Alias) -> Alias:
    """Let the alias mean this version from now on; raises NotFound unless that is a version of this adapter."""
    await get(change.connection, alias.tenant_id, alias.name, alias.version_id)
    place = _place(alias.tenant_id, alias.name, alias.alias)
    values = {"version_id": alias.version_id, "deleted": False, "revision": change.revision}
    changed = await change.connection.execute(update(aliases).where(*place).values(values))
    if changed.rowcount == 0:
        await change.connection.execute(aliases.insert().values({**asdict(alias), **change.new()}))
    return alias


async def drop(change: Change, tenant_id: str, name: str, alias: str) -> None:
    """Let the alias mean nothing; raises NotFound."""
    place = (*_place(tenant_id, name, alias), ~aliases.c.deleted)
    marked = {"deleted": True, "revision": change.revision}
    changed = await change.connection.execute(update(aliases).where(*place).values(marked))
    if changed.rowcount == 0:
        raise NotFound("The adapter has no such alias.", param="alias")


def _versions(tenant_id: str) -> Select[Any]:
    return select(adapter_versions).where(adapter_versions.c.tenant_id == tenant_id, ~adapter_versions.c.deleted)


async def _aliases(connection: AsyncConnection, tenant_id: str) -> dict[str, tuple[str, ...]]:
    query = select(aliases.c.version_id, aliases.c.alias).where(aliases.c.tenant_id == tenant_id, ~aliases.c.deleted)
    found: dict[str, tuple[str, ...]] = {}
    for version_id, alias in await connection.execute(query.order_by(aliases.c.alias)):
        found[version_id] = (*found.get(version_id, ()), alias)
    return found


def _place(tenant_id: str, name: str, alias: str) -> tuple[ColumnElement[bool], ...]:
    return (aliases.c.tenant_id == tenant_id, aliases.c.name == name, aliases.c.alias == alias)


def _stored(row: Row, known: dict[str, tuple[str, ...]]) -> StoredVersion:
    fields = ("id", "tenant_id", "name", "sha256", "path", "base_model", "rank")
    version = AdapterVersion(**{field: row[field] for field in fields})
    return StoredVersion(version, known.get(version.id, ()), row["created_at"])
