from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from app.admission.redis import RedisAdmission
from app.recording.flusher import Flusher
from app.storage.administration import audit, tenants
from app.storage.administration.change import changing
from app.storage.administration.tenants import Tenant
from app.storage.database import database
from app.storage.events import append_events
from app.storage.ledger import BudgetEvent, stream_key
from app.storage.outbox import add_endpoint
from app.storage.redis import RedisStore
from app.storage.tables import audit_log, budget_events, webhook_deliveries
from app.storage.usage import append_ledger
from app.types import AccountKind, Limits
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


def reached(
    percent: int, *, account: str = "acme", route: str | None = None, window: int = 1
) -> tuple[str, BudgetEvent]:
    """So much of a tenant's day budget is spent."""
    event = BudgetEvent(
        "budget_reached",
        AccountKind.TENANT,
        account,
        "budget_day",
        at=1_764_000_000_000 + percent,
        window=window,
        route=route,
        percent=percent,
        allowed=1000,
        used=percent * 10,
    )
    return event.id("acme"), event


async def test_the_audit_log_tells_of_every_event_and_what_was_before(database_url: str) -> None:
    """In the order in which they were written, under the name of the budget, by the gateway."""
    closed = BudgetEvent("breaker_closed", AccountKind.TENANT, "acme", "spend_velocity", at=1, window=5.0, route="chat")
    async with database(database_url) as engine:
        await append_events(engine, "acme", [reached(50), reached(80), (closed.id("acme"), closed)])
        await append_events(engine, "acme", [reached(80), reached(100)])
        async with engine.connect() as connection:
            page = await audit.listing(connection, about="budgets/acme/tenant/acme/budget_day")
            (breaker,) = (await audit.listing(connection, about="budgets/acme/tenant/acme/spend_velocity@chat")).items
    percents = [(None if one.before is None else one.before["percent"], one.after["percent"]) for one in page.items]
    assert percents == [(80, 100), (50, 80), (None, 50)]
    assert {(one.who, one.after["event"], one.after["allowed"]) for one in page.items} == {
        ("gateway", "budget_reached", 1000)
    }
    assert (breaker.after["event"], breaker.before) == ("breaker_closed", None)


async def test_gateways_that_race_write_each_event_once(database_url: str) -> None:
    """Eight write the same batch at once: one event, one audit entry, one who was told that it was new."""
    batch = [reached(percent, window=window) for window in range(4) for percent in (50, 80, 100)]
    async with database(database_url) as engine:
        new = await asyncio.gather(*(append_events(engine, "acme", batch) for _ in range(8)))
        async with engine.connect() as connection:
            counts = [
                await connection.scalar(select(func.count()).select_from(table)) for table in (budget_events, audit_log)
            ]
            entries = (await audit.listing(connection)).items
    assert sum(map(len, new)) == len(batch)
    assert counts == [len(batch), len(batch)]
    assert len({one.revision for one in entries}) == len(batch)


async def test_an_event_and_its_audit_entry_are_one_transaction(database_url: str) -> None:
    """A gateway that dies between the two has written neither; the next one writes both."""
    async with database(database_url) as engine:
        async with engine.begin() as connection:
            await connection.run_sync(audit_log.drop)
        with pytest.raises(SQLAlchemyError):
            await append_events(engine, "acme", [reached(50)])
        async with engine.begin() as connection:
            assert await connection.scalar(select(func.count()).select_from(budget_events)) == 0
            await connection.run_sync(audit_log.create)
        assert len(await append_events(engine, "acme", [reached(50)])) == 1


async def test_a_very_long_name_fits_into_the_log(database_url: str) -> None:
    """A route's name may have two hundred characters; the event is written all the same, whole."""
    async with database(database_url) as engine:
        (told,) = await append_events(engine, "acme", [reached(50, account="f" * 64, route="r" * 200)])
        async with engine.connect() as connection:
            (entry,) = (await audit.listing(connection)).items
    assert told.route == entry.after["route"] == "r" * 200
    assert entry.object.startswith("budgets/acme/tenant/" + "f" * 64 + "/budget_day@rrr")
