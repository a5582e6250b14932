from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sqlalchemy import select

from app.admission.redis import RedisAdmission
from app.recording.flusher import Flusher
from app.storage.administration import tenants
from app.storage.administration.change import changing
from app.storage.administration.tenants import Tenant
from app.storage.database import database
from app.storage.events import append_events
from app.storage.ledger import BudgetEvent, stream_key
from app.storage.outbox import add_endpoint
from app.storage.redis import RedisStore
from app.storage.tables import budget_events, webhook_deliveries
from app.storage.usage import append_ledger
from app.types import Limits
from tests.admission.cases import admitted, entry, principal


async def test_a_spent_budget_is_told_once_to_who_asked(store: RedisStore, database_url: str) -> None:
    """From the script to SQL and the webhook outbox: each event once, however often it is flushed or refused."""
    told: list[tuple[str, str]] = []
    async with database(database_url) as engine:
        async with changing(engine) as change:
            await tenants.create(change, Tenant("acme", None, Limits()))
            asks, silent = ["budget.reached", "breaker.opened"], ["other.event"]
            for wanted in (asks, silent):
                await add_endpoint(change.connection, "acme", "https://hooks.example/x", wanted, now=1.0)

        async def write_events(tenant: str, events: Sequence[tuple[str, BudgetEvent]]) -> None:
            told.extend((event.event, event.limit) for event in await append_events(engine, tenant, events))

        flusher = Flusher(
            store,
            partial(append_ledger, engine),
            lambda: ["acme"],
            write_events=write_events,
        )
        admission = RedisAdmission(store)
        who = principal(tenant=Limits(budget_day_microusd=40))
        for i in range(4):
            held = await admitted(admission, who, f"r{i}")
            if held is not None:
                await held.settle(entry(held))
        copied = await store.command("XRANGE", stream_key("acme"), "-", "+")
        await flusher.flush_once()
        for _, fields in copied:
            await store.command("XADD", stream_key("acme"), "*", *fields)
        await flusher.flush_once()
        async with engine.connect() as connection:
            events = (await connection.execute(select(budget_events).order_by(budget_events.c.at))).mappings().all()
            deliveries = (await connection.execute(select(webhook_deliveries))).mappings().all()
    assert sorted((e["event"], e["percent"]) for e in events) == [
        ("breaker_opened", None),
        ("budget_reached", 50),
        ("budget_reached", 100),
    ]
    assert {(e["kind"], e["account"], e["limit_name"], e["allowed"]) for e in events} == {
        ("tenant", "acme", "budget_day", 40)
    }
    assert sorted(d["type"] for d in deliveries) == ["breaker.opened", "budget.reached", "budget.reached"]
    assert '"percent":50' in "".join(d["body"] for d in deliveries)
    assert sorted(told) == [("breaker_opened", "budget_day"), *[("budget_reached", "budget_day")] * 2]
