"""Adapter versions in SQL: the bytes that a version names never change; its state and its aliases do (`lifecycle`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import NotFound
from app.storage.administration import tenants
from app.storage.administration.change import Change, Page, Row, page
from app.storage.administration.lifecycle import State
from app.storage.tables import adapter_versions, aliases
from app.types import AdapterVersion

FIELDS = ("id", "tenant_id", "name", "sha256", "path", "base_model", "rank")


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A registered version, the aliases that point at it now, sorted, and where it comes from."""

    version: AdapterVersion
    aliases: tuple[str, ...]
    created_at: float = 0.0
    state: State = State.READY
    state_reason: str | None = None
    lineage: Mapping[str, Any] | None = None
    signed_by: str | None = None


async def register(
    change: Change,
    version: AdapterVersion,
    *,
    state: State = State.READY,
    lineage: Mapping[str, Any] | None = None,
    signed_by: str | None = None,
) -> bool:
    """Make an imported version known; False when it is already. Raises NotFound without its tenant.

    A version that was retired and whose files are gone may come back: the same bytes are the same version.
    """
    await tenants.get(change.connection, version.tenant_id)
    known = select(adapter_versions.c.deleted).where(adapter_versions.c.id == version.id)
    deleted = await change.connection.scalar(known)
    if deleted is False:
        return False
    fresh = {"state": state.value, "state_reason": None, "state_at": change.now}
    values = {
        **{field: getattr(version, field) for field in FIELDS},
        **fresh,
        "lineage": lineage,
        "signed_by": signed_by,
        **change.new(),
    }
    if deleted is None:
        await change.connection.execute(adapter_versions.insert().values(values))
    else:
        await change.connection.execute(
            update(adapter_versions).where(adapter_versions.c.id == version.id).values(values)
        )
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


def _versions(tenant_id: str) -> Select[Any]:
    return select(adapter_versions).where(adapter_versions.c.tenant_id == tenant_id, ~adapter_versions.c.deleted)


async def _aliases(connection: AsyncConnection, tenant_id: str) -> dict[str, tuple[str, ...]]:
    query = select(aliases.c.version_id, aliases.c.alias).where(aliases.c.tenant_id == tenant_id, ~aliases.c.deleted)
    found: dict[str, tuple[str, ...]] = {}
    for version_id, alias in await connection.execute(query.order_by(aliases.c.alias)):
        found[version_id] = (*found.get(version_id, ()), alias)
    return found


def _stored(row: Row, known: dict[str, tuple[str, ...]]) -> StoredVersion:
    version = AdapterVersion(**{field: row[field] for field in FIELDS})
    return StoredVersion(
        version,
        known.get(version.id, ()),
        row["created_at"],
        State(row["state"]),
        row["state_reason"],
        row["lineage"],
        row["signed_by"],
    )
