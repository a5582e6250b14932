"""Budget events in SQL: each once, and a delivery for every webhook of the tenant that asked for it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.storage.ledger import BudgetEvent
from app.storage.tables import budget_events, webhook_deliveries, webhook_endpoints

TYPES = {
    "budget_reached": "budget.reached",
    "breaker_opened": "breaker.opened",
    "breaker_reopened": "breaker.opened",
    "breaker_closed": "breaker.closed",
}


async def append_events(engine: AsyncEngine, tenant_id: str, events: Sequence[tuple[str, BudgetEvent]]) -> int:
    """Write down what is new among these, with its deliveries, in one transaction; returns how many were new."""
    insert: Any = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert
    new = 0
    async with engine.begin() as connection:
        for name, event in events:
            event_id = "evt_" + hashlib.sha256(name.encode()).hexdigest()[:40]
            adding = insert(budget_events).values(_row(tenant_id, event_id, event)).on_conflict_do_nothing()
            if (await connection.execute(adding)).rowcount:
                new += 1
                await _deliver(connection, tenant_id, event_id, event)
    return new


def _row(tenant_id: str, event_id: str, event: BudgetEvent) -> dict[str, Any]:
    return {
        "event_id": event_id,
        "tenant_id": tenant_id,
        "event": event.event,
        "kind": event.kind.value,
        "account": event.account,
        "route": event.route,
        "limit_name": event.limit,
        "percent": event.percent,
        "allowed": event.allowed,
        "used": event.used,
        "policy": event.policy,
        "at": event.at / 1000,
    }


async def _deliver(connection: AsyncConnection, tenant_id: str, event_id: str, event: BudgetEvent) -> None:
    kind = TYPES.get(event.event, event.event)
    query = select(webhook_endpoints.c.id, webhook_endpoints.c.events).where(
        webhook_endpoints.c.tenant_id == tenant_id, webhook_endpoints.c.disabled_at.is_(None)
    )
    data = {key: value for key, value in _row(tenant_id, event_id, event).items() if key != "event_id"}
    body = {"id": event_id, "object": "event", "type": kind, "created_at": event.at // 1000, "data": data}
    for endpoint in (await connection.execute(query)).all():
        if kind in endpoint.events:
            delivery = {
                "endpoint_id": endpoint.id,
                "event_id": event_id,
                "type": kind,
                "body": msgspec.json.encode(body).decode(),
                "created_at": event.at / 1000,
                "attempt": 0,
                "due_at": time.time(),
            }
            await connection.execute(webhook_deliveries.insert().values(delivery))
