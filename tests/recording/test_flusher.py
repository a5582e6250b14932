from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Sequence
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from app.recording import flusher as module
from app.recording.flusher import BATCH, Flusher
from app.storage.database import database
from app.storage.ledger import decode, encode, entry_id, stream_key, unreadable_key
from app.storage.redis import RedisStore
from app.storage.tables import ledger
from app.storage.usage import append_ledger, usage
from app.types import LedgerEntry, Outcome
from tests.support.entries import entry

TENANTS = ("acme", "bloom")
WAIT = 30
ENTRY = entry(cost_microusd=15, started_at=1_764_000_000.0)


async def put(store: RedisStore, *entries: LedgerEntry) -> None:
    """Append entries as the scripts do."""
    await asyncio.gather(*(store.command("XADD", stream_key(e.tenant_id), "*", "e", encode(e)) for e in entries))


def entries(count: int, tenant: str = "acme") -> list[LedgerEntry]:
    """So many different entries."""
    return [replace(ENTRY, request_id=f"{tenant}-{i}", tenant_id=tenant, cost_microusd=i) for i in range(count)]


async def test_every_entry_arrives_once_and_leaves_the_stream(store: RedisStore, database_url: str) -> None:
    """More than one batch, two tenants, and entries that were appended twice."""
    async with database(database_url) as engine:
        flusher = Flusher(store, partial(append_ledger, engine), lambda: TENANTS)
        made = [*entries(BATCH + 7), *entries(3, "bloom")]
        await put(store, *made, *made[:20])
        assert await flusher.flush_once() == len(made) + 20
        assert await flusher.flush_once() == 0
        await put(store, *made[:5])
        await flusher.flush_once()
        sums = await usage(engine, group_by=["tenant"], where={})
    assert [(row["tenant"], row["requests"], row["cost_microusd"]) for row in sums] == [
        ("acme", BATCH + 7, sum(range(BATCH + 7))),
        ("bloom", 3, 3),
    ]
    assert await store.command("XLEN", stream_key("acme")) == 0


async def test_a_loss_and_its_correction_are_two_rows_of_one_request(store: RedisStore, database_url: str) -> None:
    """They add up to the truth, and count as one request."""
    async with database(database_url) as engine:
        flusher = Flusher(store, partial(append_ledger, engine), lambda: TENANTS)
        lost = replace(ENTRY, outcome=Outcome.LOST, cost_microusd=50)
        await put(store, lost, replace(ENTRY, adjustment=True, cost_microusd=-35))
        await flusher.flush_once()
        (row,) = await usage(engine, group_by=["tenant"], where={})
    assert (row["requests"], row["cost_microusd"]) == (1, 15)


async def test_a_killed_flusher_loses_and_doubles_nothing(store: RedisStore, redis_url: str, database_url: str) -> None:
    """Two flushers are killed (-9) over and over while entries come in: in the end SQL has each exactly once."""
    chance = random.Random(5)
    async with database(database_url):
        pass  # the schema is there
    made = [entry for tenant in TENANTS for entry in entries(600, tenant)]
    chance.shuffle(made)
    command = [sys.executable, "-m", "tests.recording.flushing", redis_url, database_url, *TENANTS]

    async def killed_again_and_again() -> None:
        for _ in range(3):
            process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            assert process.stdout is not None
            await process.stdout.readline()
            await asyncio.sleep(chance.random() / 5)
            process.kill()
            await process.wait()

    killing = [asyncio.create_task(killed_again_and_again()) for _ in range(2)]
    while not all(task.done() for task in killing):
        if made:
            await put(store, *made[:7])
            del made[:7]
        await asyncio.sleep(0.02)
    await asyncio.gather(*killing)
    await put(store, *made)
    async with database(database_url) as engine:
        await Flusher(store, partial(append_ledger, engine), lambda: TENANTS).flush_once()
        async with engine.connect() as connection:
            rows = (await connection.execute(select(func.count(), func.sum(ledger.c.cost_microusd)))).one()
    assert tuple(rows) == (1200, 2 * sum(range(600)))
    assert [await store.command("XLEN", stream_key(tenant)) for tenant in TENANTS] == [0, 0]


async def test_entries_wait_in_redis_while_sql_is_away(store: RedisStore) -> None:
    """A failing database takes nothing from the stream; the running flusher brings it over when SQL is back."""
    written: list[str] = []
    away = True

    async def write(rows: Sequence[tuple[str, LedgerEntry]]) -> None:
        if away:
            raise SQLAlchemyError("away")
        written.extend(name for name, _ in rows)

    flusher = Flusher(store, write, lambda: TENANTS, interval_seconds=0.01, write_errors=(SQLAlchemyError,))
    await put(store, *entries(10))
    with pytest.raises(SQLAlchemyError):
        await flusher.flush_once()
    assert await store.command("XLEN", stream_key("acme")) == 10
    running = asyncio.create_task(flusher.run())
    await asyncio.sleep(0.05)
    away = False
    async with asyncio.timeout(WAIT):
        while len(written) < 10:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert written == [entry_id(entry) for entry in entries(10)]


async def test_an_unreadable_entry_is_set_aside_and_stops_nobody(store: RedisStore) -> None:
    """It is kept for people to look at, and those around it arrive."""
    written: list[str] = []

    async def write(rows: Sequence[tuple[str, LedgerEntry]]) -> None:
        written.extend(name for name, _ in rows)

    first, second = entries(2)
    await put(store, first)
    await store.command("XADD", stream_key("acme"), "*", "e", b'{"not": "an entry"}')
    await put(store, second)
    await Flusher(store, write, lambda: TENANTS).flush_once()
    assert written == [entry_id(first), entry_id(second)]
    ((_, aside),) = await store.command("XRANGE", unreadable_key("acme"), "-", "+")
    assert aside == [b"e", b'{"not": "an entry"}']
    assert await store.command("XLEN", stream_key("acme")) == 0


async def test_what_redis_refuses_is_tried_again(store: RedisStore) -> None:
    """An entry that cannot be set aside now (Redis is full, say) waits in its stream, and the flusher lives on."""
    await store.command("XADD", stream_key("acme"), "*", "e", b'{"not": "an entry"}')
    await store.command("SET", unreadable_key("acme"), "of another type")

    async def write(rows: Sequence[tuple[str, LedgerEntry]]) -> None:
        """Nothing to write."""

    flusher = Flusher(store, write, lambda: TENANTS, interval_seconds=0.01)
    running = asyncio.create_task(flusher.run())
    async with asyncio.timeout(WAIT):
        while flusher.backlog_entries != 1:
            await asyncio.sleep(0.01)
        assert not running.done()
        await store.command("DEL", unreadable_key("acme"))
        while await store.command("XLEN", stream_key("acme")):
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await store.command("XLEN", unreadable_key("acme")) == 1


async def test_active_tenants_are_looked_at_each_round_and_all_of_them_now_and_then(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is settled here arrives at once; what another gateway left behind arrives with the next look at all."""
    monkeypatch.setattr(module, "ALL_SECONDS", 0.5)
    written: list[str] = []
    looked = 0

    async def write(rows: Sequence[tuple[str, LedgerEntry]]) -> None:
        written.extend(name for name, _ in rows)

    def everybody() -> Sequence[str]:
        nonlocal looked
        looked += 1
        return TENANTS

    async def arrived(count: int) -> None:
        async with asyncio.timeout(WAIT):
            while len(written) < count:
                await asyncio.sleep(0.005)

    flusher = Flusher(store, write, everybody, interval_seconds=0.005)
    running = asyncio.create_task(flusher.run())
    async with asyncio.timeout(WAIT):
        while not looked:
            await asyncio.sleep(0.005)
    ours, theirs = entries(1, "acme"), entries(1, "bloom")
    await put(store, *ours, *theirs)
    flusher.settled("acme")
    await arrived(2)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert sorted(written) == sorted(entry_id(entry) for entry in (*ours, *theirs))
    assert looked >= 2


@settings(deadline=None)
@given(
    st.builds(
        LedgerEntry,
        request_id=st.text(max_size=40),
        tenant_id=st.text(max_size=40),
        route=st.text(max_size=40),
        cost_microusd=st.integers(-(10**13), 10**13),
        started_at=st.floats(0, 2e9),
    )
)
def test_an_entry_travels_unchanged(entry: LedgerEntry) -> None:
    """What is encoded is what is decoded, for every field."""
    assert decode(encode(entry)) == entry
