"""Budget events in SQL: each once, and announced to every webhook of the tenant that asked for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine

from app.storage.ledger import BudgetEvent
from app.storage.outbox import Event, announce
from app.storage.tables import budget_events

TYPES = {
    "budget_reached": "budget.reached",
    "breaker_opened": "breaker.opened",
    "breaker_reopened": "breaker.opened",
    "breaker_closed": "breaker.closed",
}


async def append_events(
    engine: AsyncEngine, tenant_id: str, events: Sequence[tuple[str, BudgetEvent]]
) -> list[BudgetEvent]:
    """Write down what is new among these, with its deliveries, in one transaction; returns those."""
    insert: Any = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert
    new = []
    async with engine.begin() as connection:
        for occasion, event in events:
            row = _row(event)
            told = Event.of(tenant_id, occasion, TYPES[event.event], row, at=event.at / 1000)
            row = {**row, "event_id": told.id, "tenant_id": tenant_id, "event": event.event, "at": told.created_at}
            adding = insert(budget_events).values(row).on_conflict_do_nothing()
            if (await connection.execute(adding)).rowcount:
                new.append(event)
                await announce(connection, tenant_id, told)
    return new


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
