"""Budget events in SQL: each once, in the audit log, and announced to every webhook of the tenant that asked for it.

An event, its audit entry and its deliveries commit together or not at all. Races removed: of several gateways that read
the same event one writes it, for they take the log's revision one after another and the event's id is unique; a gateway
that is killed before it commits has written nothing, and one killed after it finds, as any other does, what it wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.storage.administration import audit
from app.storage.administration.audit import AuditEntry
from app.storage.administration.change import next_revision
from app.storage.ledger import BudgetEvent
from app.storage.outbox import Event, announce
from app.storage.tables import audit_log, budget_events

WHO = "gateway"
MAX_OBJECT = 300  # characters of an object's name in the audit log
TYPES = {
    "budget_reached": "budget.reached",
    "breaker_opened": "breaker.opened",
    "breaker_reopened": "breaker.opened",
    "breaker_closed": "breaker.closed",
}


async def append_events(
    engine: AsyncEngine, tenant_id: str, events: Sequence[tuple[str, BudgetEvent]]
) -> list[BudgetEvent]:
    """Write down what is new among these, each with what belongs to it in one transaction; returns those."""
    told = [(_told(tenant_id, occasion, event), event) for occasion, event in events]
    async with engine.connect() as connection:
        ids = [one.id for one, _ in told]
        known = set(await connection.scalars(select(budget_events.c.event_id).where(budget_events.c.event_id.in_(ids))))
    new = []
    for one, event in told:
        if one.id not in known:
            async with engine.connect() as connection:
                if await _append(connection, tenant_id, one, event):
                    await connection.commit()
                    new.append(event)
    return new


async def _append(connection: AsyncConnection, tenant_id: str, told: Event, event: BudgetEvent) -> bool:
    """Whether it was new; if not, another gateway was quicker and nothing is to be committed."""
    revision = await next_revision(connection)
    insert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    row = {"event_id": told.id, "tenant_id": tenant_id, "event": event.event, "at": told.created_at, **told.data}
    if not (await connection.execute(insert(budget_events).values(row).on_conflict_do_nothing())).rowcount:
        return False
    about = _object(tenant_id, event)
    last = select(audit_log.c.after).where(audit_log.c.object == about).order_by(audit_log.c.revision.desc()).limit(1)
    before = await connection.scalar(last)
    after = {"event": event.event, **told.data}
    await audit.note(connection, AuditEntry(revision, about, told.created_at, WHO, before, after))
    await announce(connection, tenant_id, told)
    return True


def _object(tenant_id: str, event: BudgetEvent) -> str:
    """What the audit log calls a budget or a breaker; of a very long route the beginning is enough."""
    route = "" if event.route is None else f"@{event.route}"
    name = f"budgets/{tenant_id}/{event.kind.value}/{event.account}/{event.limit}{route}"
    return name[:MAX_OBJECT]


def _told(tenant_id: str, occasion: str, event: BudgetEvent) -> Event:
    return Event.of(tenant_id, occasion, TYPES[event.event], _row(event), at=event.at / 1000)


def _row(event: BudgetEvent) -> dict[str, Any]:
    return {
        "kind": event.kind.value,
        "account": event.account,
        "route": event.route,
        "limit_name": event.limit,
        "percent": event.percent,
        "allowed": event.allowed,
        "used": event.used,
        "policy": event.policy,
    }
