"""Limits by user and by route in SQL: further limits of a tenant's accounts, each under a name of its own."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import NotFound
from app.storage.administration import tenants
from app.storage.administration.change import Change, Page, Row, limit_columns, limits_of, page
from app.storage.tables import limit_rules
from app.types import AccountKind, LimitRule


@dataclass(frozen=True, slots=True)
class NamedRule:
    """A rule and the name it is administered by."""

    tenant_id: str
    id: str
    rule: LimitRule


async def put(change: Change, named: NamedRule) -> bool:
    """Make or replace a rule; returns whether it is new. Raises NotFound without the tenant."""
    await tenants.get(change.connection, named.tenant_id)
    place = (limit_rules.c.tenant_id == named.tenant_id, limit_rules.c.id == named.id)
    known = (await change.connection.execute(select(limit_rules.c.deleted).where(*place))).one_or_none()
    rule = named.rule
    values = {
        "kind": rule.kind.value,
        "subject": rule.subject,
        "route": rule.route,
        **limit_columns(rule.limits),
        **change.new(),
    }
    if known is None:
        await change.connection.execute(limit_rules.insert().values(tenant_id=named.tenant_id, id=named.id, **values))
    else:
        await change.connection.execute(update(limit_rules).where(*place).values(values))
    return known is None or bool(known.deleted)


async def listing(connection: AsyncConnection, tenant_id: str, *, after: str | None, limit: int) -> Page[NamedRule]:
    """The tenant's rules in the order of their names; raises NotFound without the tenant."""
    await tenants.get(connection, tenant_id)
    query = select(limit_rules).where(limit_rules.c.tenant_id == tenant_id, ~limit_rules.c.deleted)
    return await page(connection, query, limit_rules.c.id, _named, after=after, limit=limit)


async def delete(change: Change, tenant_id: str, rule_id: str) -> None:
    """Take a rule away; raises NotFound."""
    place = (limit_rules.c.tenant_id == tenant_id, limit_rules.c.id == rule_id, ~limit_rules.c.deleted)
    marked = {"deleted": True, "revision": change.revision}
    done = await change.connection.execute(update(limit_rules).where(*place).values(marked))
    if not done.rowcount:
        raise NotFound("The tenant has no such limit rule.", param="rule")


def _named(row: Row) -> NamedRule:
    rule = LimitRule(AccountKind(row["kind"]), row["subject"], row["route"], limits_of(row))
    return NamedRule(row["tenant_id"], row["id"], rule)
