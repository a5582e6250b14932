"""Usage over the admin API: flushed first, summed by any dimension, honest when it is not complete."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.storage.redis import RedisDown
from app.storage.usage import append_ledger
from tests.support.admin_app import application, client, services
from tests.support.entries import entry


async def test_usage_is_flushed_first_and_grouped(engine: AsyncEngine, tmp_path: Path, tenant: str) -> None:
    """What waits in Redis is brought over before the sums are made; groups come comma-separated or repeated."""

    async def flush() -> None:
        entries = [entry(tenant, number, route=f"r{number % 2}", cost_microusd=number) for number in range(4)]
        await append_ledger(engine, [(f"{tenant}/{e.request_id}", e) for e in entries])

    async with client(application(services(engine, tmp_path, flush=flush))) as admin:
        plain = (await admin.get(f"/usage?tenant={tenant}")).json()
        assert plain["complete"] is True
        assert [(row["tenant"], row["requests"], row["cost_microusd"]) for row in plain["data"]] == [(tenant, 4, 6)]
        for query in ("group_by=route,outcome", "group_by=route&group_by=outcome"):
            rows = (await admin.get(f"/usage?tenant={tenant}&{query}")).json()["data"]
            assert [(row["route"], row["outcome"], row["cost_microusd"]) for row in rows] == [
                ("r0", "ok", 2),
                ("r1", "ok", 4),
            ]
        rows = (await admin.get(f"/usage?tenant={tenant}&route=r1")).json()["data"]
        assert [row["requests"] for row in rows] == [2]


async def test_usage_says_when_the_newest_entries_are_missing(engine: AsyncEngine, tmp_path: Path) -> None:
    """While Redis is away the figures of SQL are given, marked as not complete."""

    async def flush() -> None:
        raise RedisDown("away")

    async with client(application(services(engine, tmp_path, flush=flush))) as admin:
        answer = await admin.get("/usage")
    assert answer.status_code == 200
    assert answer.json()["complete"] is False


async def test_instants_are_seconds_or_dates(engine: AsyncEngine, admin: httpx2.AsyncClient, tenant: str) -> None:
    """`since` is within, `until` is not; a date without a zone is UTC."""
    noon = 1_767_268_800.0  # 2026-01-01T12:00:00Z
    entries = [entry(tenant, number, started_at=noon + number) for number in range(4)]
    await append_ledger(engine, [(f"{tenant}/{e.request_id}", e) for e in entries])
    for query, requests in (
        (f"since={noon + 1}&until={noon + 3}", 2),
        ("since=2026-01-01T12:00:01&until=2026-01-01T12:00:03Z", 2),
        ("since=2026-01-01T13:00:02%2B01:00", 2),
        ("until=2026-01-01", 0),
        ("day=2026-01-01", 4),
    ):
        rows = (await admin.get(f"/usage?tenant={tenant}&{query}")).json()["data"]
        assert sum(row["requests"] for row in rows) == requests, query


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("group_by=colour", "group_by"),
        ("group_by=", "group_by"),
        ("group_by=day,day", "group_by"),
        ("since=yesterday", "since"),
        ("since=nan", "since"),
        ("until=-1", "until"),
        ("tenant=%00", "tenant"),
        ("colour=red", "colour"),
    ],
)
async def test_wrong_queries_are_named(admin: httpx2.AsyncClient, query: str, param: str) -> None:
    """Each is 400 with its parameter."""
    answer = await admin.get(f"/usage?{query}")
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
