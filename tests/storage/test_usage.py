"""The ledger in SQL: each entry once, sums exact, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.storage.database import database
from app.storage.ledger import entry_id
from app.storage.tables import ledger
from app.storage.usage import GROUPS, append_ledger, usage
from app.types import LedgerEntry, Outcome
from tests.support.entries import entry
from tests.support.postgres import new_database


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """A database of each kind."""
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    if request.param == "postgresql":
        url = new_database(request.getfixturevalue("postgres_server"))
    async with database(url) as opened:
        yield opened


def named(*entries: LedgerEntry) -> list[tuple[str, LedgerEntry]]:
    """Entries with their ids, as the flusher brings them."""
    return [(entry_id(one), one) for one in entries]


async def test_an_entry_comes_in_once_however_often_it_is_brought(engine: AsyncEngine) -> None:
    """Repeats in one batch, in later batches and from several flushers at once change nothing; the first one stands."""
    entries = named(*(entry(number=number) for number in range(250)))
    await append_ledger(engine, entries)
    await append_ledger(engine, [*entries[:120], *entries[:120]])
    await append_ledger(engine, named(entry(number=1, cost_microusd=10**6)))
    await asyncio.gather(*(append_ledger(engine, entries) for _ in range(4)))
    await append_ledger(engine, [])
    (row,) = await usage(engine, group_by=["tenant"], where={})
    assert row["requests"] == 250
    assert row["cost_microusd"] == 250 * 7


async def test_tenants_may_have_requests_of_the_same_name(engine: AsyncEngine) -> None:
    """The id of an entry holds its tenant."""
    await append_ledger(engine, named(entry("a"), entry("b")))
    rows = await usage(engine, group_by=["tenant"], where={})
    assert [(row["tenant"], row["requests"]) for row in rows] == [("a", 1), ("b", 1)]


async def test_a_correction_changes_sums_and_no_count(engine: AsyncEngine) -> None:
    """A lost lease charged at its estimate and corrected later is one request at its true cost."""
    lost = entry(number=1, outcome=Outcome.LOST, cost_microusd=100, completion_tokens=50)
    late = entry(number=1, cost_microusd=-60, completion_tokens=-30, prompt_tokens=0, adjustment=True)
    await append_ledger(engine, named(lost, late))
    (row,) = await usage(engine, group_by=["tenant"], where={})
    assert (row["requests"], row["cost_microusd"], row["completion_tokens"]) == (1, 40, 20)


async def test_money_beyond_32_bits_is_exact(engine: AsyncEngine) -> None:
    """Whole micro-dollars of large sums come back as whole numbers."""
    amount = 2**53 + 1
    await append_ledger(engine, named(*(entry(number=number, cost_microusd=amount) for number in range(3))))
    (row,) = await usage(engine, group_by=["tenant"], where={})
    assert row["cost_microusd"] == 3 * amount
    assert type(row["cost_microusd"]) is int


async def test_nothing_is_an_empty_list(engine: AsyncEngine) -> None:
    """No entry, no row; also without a group."""
    assert await usage(engine, group_by=["tenant"], where={"tenant": "nobody"}) == []
    assert await usage(engine, group_by=[], where={"tenant": "nobody"}) == []


FIELDS: dict[str, list[Any]] = {
    "tenant_id": ["a", "b"],
    "team_id": [None, "red"],
    "key_id": ["k1", "k2"],
    "user_hash": [None, "u"],
    "route": ["r1", "r2"],
    "variant": ["champion", "candidate"],
    "model": ["m1", "m2"],
    "adapter_version": [None, "a--s@0"],
    "outcome": [Outcome.OK, Outcome.CLIENT_GONE],
}
ENTRIES = st.lists(
    st.fixed_dictionaries(
        {
            **{name: st.sampled_from(values) for name, values in FIELDS.items()},
            "cost_microusd": st.integers(0, 10**12),
            "prompt_tokens": st.integers(0, 10**6),
            "started_at": st.floats(1_767_000_000, 1_768_000_000),
        }
    ),
    min_size=1,
    max_size=30,
)


@given(values=ENTRIES, group=st.sampled_from(sorted(GROUPS)), window=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_sums_are_those_of_plain_python(
    shared_ledger: Ledger, values: list[dict[str, Any]], group: str, window: tuple[int, int]
) -> None:
    """For any entries, any dimension and any window SQL adds up as Python does."""
    since, until = (1_767_000_000.0 + percent * 10_000 for percent in window)
    entries = [entry(number=number, **fields) for number, fields in enumerate(values)]
    shared_ledger.replace(entries)
    rows = shared_ledger.sums(group, since, until)
    column = GROUPS[group].name
    expected: dict[Any, list[int]] = {}
    for one in entries:
        if since <= one.started_at < until:
            value = shared_ledger.day(one) if group == "day" else getattr(one, column)
            sums = expected.setdefault(getattr(value, "value", value), [0, 0, 0])
            sums[0] += 1
            sums[1] += one.cost_microusd
            sums[2] += one.prompt_tokens
    assert {row[group]: [row["requests"], row["cost_microusd"], row["prompt_tokens"]] for row in rows} == expected


class Ledger:
    """A ledger that a plain function can fill and sum: hypothesis calls no coroutines."""

    def __init__(self, url: str) -> None:
        self.url = url

    def replace(self, entries: list[LedgerEntry]) -> None:
        """Hold exactly these entries."""

        async def work() -> None:
            async with database(self.url) as engine:
                async with engine.begin() as connection:
                    await connection.execute(delete(ledger))
                await append_ledger(engine, named(*entries))
                async with engine.connect() as connection:
                    assert await connection.scalar(select(func.count()).select_from(ledger)) == len(entries)

        asyncio.run(work())

    def sums(self, group: str, since: float, until: float) -> list[dict[str, Any]]:
        """The sums by one dimension."""

        async def work() -> list[dict[str, Any]]:
            async with database(self.url) as engine:
                return await usage(engine, group_by=[group], where={}, since=since, until=until)

        return asyncio.run(work())

    @staticmethod
    def day(one: LedgerEntry) -> str:
        """The UTC day of an entry, counted from the epoch's."""
        return date.fromordinal(date(1970, 1, 1).toordinal() + int(one.started_at // 86_400)).isoformat()


@pytest.fixture(scope="module")
def shared_ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """One ledger for all examples."""
    return Ledger(f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'sums.sqlite3'}")
