"""API keys in SQL: digest and prefix only; the secret was shown once and is nowhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import Conflict, NotFound
from app.storage.administration import teams, tenants
from app.storage.administration.change import Change, Page, Row, limit_columns, limits_of, page
from app.storage.tables import keys
from app.types import Limits, Operation


@dataclass(frozen=True, slots=True)
class Key:
    """A key as administrators see it. `routes=None` may name every route, `expires_at=None` never expires."""

    id: str
    tenant_id: str
    team_id: str | None
    name: str | None
    prefix: str
    operations: frozenset[Operation]
    routes: frozenset[str] | None
    limits: Limits
    expires_at: float | None = None
    revoked_at: float | None = None
    created_at: float = 0.0
    digest: bytes = field(default=b"", repr=False)


async def create(change: Change, key: Key) -> Key:
    """Insert a key; raises NotFound without its tenant or team."""
    await tenants.get(change.connection, key.tenant_id)
    if key.team_id is not None:
        await teams.get(change.connection, key.tenant_id, key.team_id)
    values = {
        "id": key.id,
        "tenant_id": key.tenant_id,
        "team_id": key.team_id,
        "digest": key.digest,
        "prefix": key.prefix,
        "revoked_at": None,
        **_editable(key),
        **change.new(),
    }
    await change.connection.execute(keys.insert().values(values))
    return _key(values)


async def get(connection: AsyncConnection, tenant_id: str, key_id: str) -> Key:
    """The tenant's key, revoked or not; raises NotFound."""
    query = select(keys).where(keys.c.tenant_id == tenant_id, keys.c.id == key_id, ~keys.c.deleted)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound("The tenant has no such key.", param="key")
    return _key(row)


async def listing(connection: AsyncConnection, tenant_id: str, *, after: str | None, limit: int) -> Page[Key]:
    """The tenant's keys in the order of their ids; raises NotFound without the tenant."""
    await tenants.get(connection, tenant_id)
    query = select(keys).where(keys.c.tenant_id == tenant_id, ~keys.c.deleted)
    return await page(connection, query, keys.c.id, _key, after=after, limit=limit)


async def edit(change: Change, tenant_id: str, key_id: str, edited: Callable[[Key], Key]) -> Key:
    """Replace name, scopes, limits and expiry by what `edited` makes of the present ones; raises NotFound."""
    key = edited(await get(change.connection, tenant_id, key_id))
    place = (keys.c.tenant_id == tenant_id, keys.c.id == key_id)
    values = {**_editable(key), "revision": change.revision}
    await change.connection.execute(update(keys).where(*place).values(values))
    return key


async def rotate(change: Change, tenant_id: str, key_id: str, *, digest: bytes, prefix: str, until: float) -> Key:
    """Give the key a new secret; the present one works until then, an older one no more. Raises NotFound, Conflict."""
    key = await get(change.connection, tenant_id, key_id)
    if key.revoked_at is not None:
        raise Conflict("A revoked key is not rotated. Make a new one.", param="key")
    place = (keys.c.tenant_id == tenant_id, keys.c.id == key_id)
    present = await change.connection.scalar(select(keys.c.digest).where(*place))
    values = {
        "digest": digest,
        "prefix": prefix,
        "previous_digest": present,
        "previous_until": until,
        "revision": change.revision,
    }
    await change.connection.execute(update(keys).where(*place).values(values))
    return await get(change.connection, tenant_id, key_id)


async def revoke(change: Change, tenant_id: str, key_id: str) -> Key:
    """Let the key work no more, for ever; the first revocation's instant stands. Raises NotFound."""
    place = (keys.c.tenant_id == tenant_id, keys.c.id == key_id, keys.c.revoked_at.is_(None))
    values = {"revoked_at": change.now, "revision": change.revision}
    await change.connection.execute(update(keys).where(*place).values(values))
    return await get(change.connection, tenant_id, key_id)


def _editable(key: Key) -> Row:
    return {
        "name": key.name,
        "operations": sorted(key.operations),
        "routes": None if key.routes is None else sorted(key.routes),
        "expires_at": key.expires_at,
        **limit_columns(key.limits),
    }


def _key(row: Row) -> Key:
    return Key(
        id=row["id"],
        tenant_id=row["tenant_id"],
        team_id=row["team_id"],
        name=row["name"],
        prefix=row["prefix"],
        operations=frozenset(Operation(name) for name in row["operations"]),
        routes=None if row["routes"] is None else frozenset(row["routes"]),
        limits=limits_of(row),
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        created_at=row["created_at"],
    )
