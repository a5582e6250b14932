"""The webhook outbox: what a tenant's endpoints shall hear, written in the transaction that makes it true.

An event is announced once per endpoint, known by its id, so announcing it again changes nothing. A delivery is taken
by moving its due time on before it is sent: of two gateways one sends it, and one that dies on the way only delays it.
Deliveries are at least once; receivers know a repeated one by `webhook-id`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import Conflict, NotFound
from app.storage.administration.change import Page, Row, page
from app.storage.tables import webhook_deliveries as deliveries
from app.storage.tables import webhook_endpoints as endpoints

EVERY = "*"
MAX_ENDPOINTS = 20  # of one tenant
TAKEN_SECONDS = 120.0  # a delivery under way is nobody else's for so long
RETRY_SECONDS = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
PATIENCE_SECONDS = 5 * 86_400.0  # an endpoint that has failed for so long is switched off


class Outcome(StrEnum):
    """What has become of one attempt to deliver; fit for a metric label."""

    DELIVERED = "delivered"
    FAILED = "failed"  # it is tried again
    GIVEN_UP = "given_up"  # it is not, until its endpoint is revived
    SWITCHED_OFF = "switched_off"  # neither is anything else of its endpoint


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is still to be sent: how many deliveries, and how overdue the latest of them is, in seconds (0: none is)."""

    deliveries: int
    late_seconds: float


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened to a tenant; `data` is what receivers need to look it up, no more."""

    id: str
    type: str
    created_at: float
    data: Mapping[str, Any]

    @classmethod
    def of(cls, tenant_id: str, occasion: str, kind: str, data: Mapping[str, Any], *, at: float) -> Event:
        """The event of an occasion: the same one has the same id, whoever announces it and how often."""
        digest = hashlib.sha256(f"{len(tenant_id)}:{tenant_id}{kind}\x00{occasion}".encode()).hexdigest()
        return cls(f"evt_{digest[:32]}", kind, at, data)

    def body(self) -> str:
        """OpenAI's webhook event as JSON: these bytes are signed and sent."""
        fields = {"id": self.id, "object": "event", "created_at": int(self.created_at), "type": self.type}
        return msgspec.json.encode({**fields, "data": dict(self.data)}).decode()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address that a tenant's events of these types (`*`: all) are sent to."""

    id: str
    tenant_id: str
    url: str
    events: tuple[str, ...]
    created_at: float
    failing_since: float | None = None
    disabled_at: float | None = None

    def wants(self, kind: str) -> bool:
        """Whether events of this type go there now."""
        return self.disabled_at is None and (EVERY in self.events or kind in self.events)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one endpoint; `attempt` counts from 1."""

    endpoint: Endpoint
    event_id: str
    type: str
    body: str
    attempt: int


async def add_endpoint(
    connection: AsyncConnection, tenant_id: str, url: str, events: Sequence[str], *, now: float
) -> Endpoint:
    """Make an endpoint; raises Conflict when the tenant has many already."""
    known = await connection.scalars(select(endpoints.c.id).where(endpoints.c.tenant_id == tenant_id))
    if len(known.all()) >= MAX_ENDPOINTS:
        raise Conflict(f"The tenant has {MAX_ENDPOINTS} webhook endpoints; delete one first.", param="url")
    made = Endpoint(f"whe_{secrets.token_hex(12)}", tenant_id, url, tuple(events), now)
    values = {"id": made.id, "tenant_id": tenant_id, "url": url, "events": list(events), "created_at": now}
    await connection.execute(endpoints.insert().values(values))
    return made


async def list_endpoints(
    connection: AsyncConnection, tenant_id: str, *, after: str | None, limit: int
) -> Page[Endpoint]:
    """The tenant's endpoints in the order of their ids."""
    query = select(endpoints).where(endpoints.c.tenant_id == tenant_id)
    return await page(connection, query, endpoints.c.id, _endpoint, after=after, limit=limit)


async def drop_endpoint(connection: AsyncConnection, tenant_id: str, endpoint_id: str) -> None:
    """Delete an endpoint and what was still to be sent there; raises NotFound."""
    place = (endpoints.c.tenant_id == tenant_id, endpoints.c.id == endpoint_id)
    if (await connection.execute(delete(endpoints).where(*place))).rowcount == 0:
        raise NotFound("The tenant has no such webhook endpoint.", param="endpoint")


async def revive_endpoint(connection: AsyncConnection, tenant_id: str, endpoint_id: str, *, now: float) -> Endpoint:
    """Switch an endpoint on again and send it all that did not arrive; raises NotFound."""
    place = (endpoints.c.tenant_id == tenant_id, endpoints.c.id == endpoint_id)
    changed = update(endpoints).where(*place).values(failing_since=None, disabled_at=None).returning(*endpoints.c)
    row = (await connection.execute(changed)).mappings().one_or_none()
    if row is None:
        raise NotFound("The tenant has no such webhook endpoint.", param="endpoint")
    unsent = (deliveries.c.endpoint_id == endpoint_id, deliveries.c.delivered_at.is_(None))
    await connection.execute(update(deliveries).where(*unsent).values(due_at=now, attempt=0))
    return _endpoint(row)


async def announce(connection: AsyncConnection, tenant_id: str, event: Event) -> int:
    """Put an event into the outbox for every endpoint that wants it; returns for how many it was new."""
    rows = (await connection.execute(select(endpoints).where(endpoints.c.tenant_id == tenant_id))).mappings().all()
    wanted = [endpoint for endpoint in map(_endpoint, rows) if endpoint.wants(event.type)]
    insert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    new = 0
    for endpoint in wanted:
        values = {
            "endpoint_id": endpoint.id,
            "event_id": event.id,
            "type": event.type,
            "body": event.body(),
            "created_at": event.created_at,
            "attempt": 0,
            "due_at": event.created_at,
        }
        new += (await connection.execute(insert(deliveries).values(values).on_conflict_do_nothing())).rowcount
    return new


async def take_due(connection: AsyncConnection, *, now: float, limit: int = 20) -> list[Delivery]:
    """Deliveries that are due, each for one caller only: their next due time is set before they are sent."""
    due = select(deliveries.c.endpoint_id, deliveries.c.event_id).where(deliveries.c.due_at <= now)
    due = due.order_by(deliveries.c.due_at).limit(limit).with_for_update(skip_locked=True)
    taken: list[Delivery] = []
    for endpoint_id, event_id in (await connection.execute(due)).all():
        place = (deliveries.c.endpoint_id == endpoint_id, deliveries.c.event_id == event_id, deliveries.c.due_at <= now)
        values = {"due_at": now + TAKEN_SECONDS, "attempt": deliveries.c.attempt + 1}
        changed = update(deliveries).where(*place).values(values).returning(*deliveries.c)
        row = (await connection.execute(changed)).mappings().one_or_none()
        known = await connection.execute(select(endpoints).where(endpoints.c.id == endpoint_id))
        if row is not None:
            endpoint = _endpoint(known.mappings().one())
            taken.append(Delivery(endpoint, event_id, row["type"], row["body"], row["attempt"]))
    return taken


async def delivered(connection: AsyncConnection, delivery: Delivery, *, now: float) -> None:
    """The receiver has taken it."""
    values = {"due_at": None, "delivered_at": now, "last_error": None}
    await connection.execute(update(deliveries).where(*_place(delivery)).values(values))
    calm = (endpoints.c.id == delivery.endpoint.id, endpoints.c.failing_since.is_not(None))
    await connection.execute(update(endpoints).where(*calm).values(failing_since=None))


async def failed(connection: AsyncConnection, delivery: Delivery, reason: str, *, now: float) -> Outcome:
    """The receiver has not taken it: try later, or give up, or switch its endpoint off."""
    later = now + RETRY_SECONDS[delivery.attempt - 1] if delivery.attempt <= len(RETRY_SECONDS) else None
    values = {"due_at": later, "last_error": reason[:200]}
    await connection.execute(update(deliveries).where(*_place(delivery)).values(values))
    first = (endpoints.c.id == delivery.endpoint.id, endpoints.c.failing_since.is_(None))
    await connection.execute(update(endpoints).where(*first).values(failing_since=now))
    worn = (
        endpoints.c.id == delivery.endpoint.id,
        endpoints.c.disabled_at.is_(None),
        endpoints.c.failing_since < now - PATIENCE_SECONDS,
    )
    if (await connection.execute(update(endpoints).where(*worn).values(disabled_at=now))).rowcount > 0:
        rest = (deliveries.c.endpoint_id == delivery.endpoint.id, deliveries.c.due_at.is_not(None))
        await connection.execute(update(deliveries).where(*rest).values(due_at=None))
        return Outcome.SWITCHED_OFF
    return Outcome.GIVEN_UP if later is None else Outcome.FAILED


async def backlog(connection: AsyncConnection, *, now: float) -> Backlog:
    """What is still to be sent, of all tenants; by the index of due times, however much was sent."""
    waiting = select(func.count(), func.min(deliveries.c.due_at)).where(deliveries.c.due_at.is_not(None))
    count, first = (await connection.execute(waiting)).one()
    return Backlog(count, 0.0 if first is None else max(0.0, now - first))


def _place(delivery: Delivery) -> tuple[Any, Any]:
    return (deliveries.c.endpoint_id == delivery.endpoint.id, deliveries.c.event_id == delivery.event_id)


def _endpoint(row: Row) -> Endpoint:
    return Endpoint(
        id=row["id"],
        tenant_id=row["tenant_id"],
        url=row["url"],
        events=tuple(row["events"]),
        created_at=row["created_at"],
        failing_since=row["failing_since"],
        disabled_at=row["disabled_at"],
    )
