"""The fail policy of authentication and flags: the last known policy while SQL is away, told, and then nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import httpx2
import pytest

from app.errors import Unavailable
from app.storage.administration import tenants
from app.storage.administration.change import changing
from app.storage.administration.tenants import Tenant
from app.storage.database import database
from app.storage.policy import LastKnown, PolicyReader
from app.types import Limits
from tests.support.gateway import gateway
from tests.support.postgres import running_postgres
from tests.support.provider import fake_provider, plain

MAX_AGE_SECONDS = 3.0
WAIT = 30


class Now:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


async def test_each_decision_by_an_old_policy_is_told(tmp_path: Path) -> None:
    """None while polls come through, `last_known` when they have not for a while, `refused` past the greatest age."""
    clock, told = Now(), Counter[str]()
    async with database(f"sqlite:///{tmp_path / 'truth.sqlite3'}") as engine:
        async with changing(engine) as change:
            await tenants.create(change, Tenant("acme", None, Limits()))
        reader = PolicyReader(engine, max_age_seconds=900.0, clock=clock)
        keys = LastKnown(reader, 5.0, lambda decision: told.update([decision]))
        with pytest.raises(Unavailable):
            keys.current()  # nothing was ever read
        await reader.refresh()
        for seconds in (0.0, 5.0, 0.1, 894.9):
            clock.now += seconds
            assert keys.current().tenant_ids() == ["acme"]
        clock.now += 0.1
        with pytest.raises(Unavailable):
            keys.current()
        await reader.refresh()
        keys.current()
    assert told == {"refused": 2, "last_known": 2}


async def ask(url: str, key: str) -> httpx2.Response:
    """One chat call."""
    body = {"model": "support", "max_tokens": 3, "messages": [{"role": "user", "content": "Hi"}]}
    async with httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30) as client:
        return await client.post("/v1/chat/completions", json=body)


async def counted(metrics_url: str) -> dict[tuple[str, str], float]:
    """What was decided without SQL, by part and decision."""
    async with httpx2.AsyncClient() as client:
        lines = (await client.get(f"{metrics_url}/metrics")).text.splitlines()
    found = {}
    for part in ("auth", "flags"):
        for decision in ("last_known", "refused"):
            series = f'gateway_fail_policy_total{{away="sql",decision="{decision}",part="{part}"}}'
            found[part, decision] = sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(series))
    return found


@pytest.mark.postgres
async def test_a_gateway_whose_sql_dies_serves_by_the_last_known_keys_and_weights(
    tmp_path: Path, redis_url: str
) -> None:
    """The same key and the same variant go on, then every call is 503 and none is 401; each is counted."""
    (tmp_path / "postgres").mkdir()
    postgres = running_postgres(tmp_path / "postgres")
    url = await asyncio.to_thread(postgres.__enter__)
    try:
        async with fake_provider(plain) as provider:
            settings = {
                "redis_url": redis_url,
                "database_url": f"{url}/postgres",
                "policy_poll_seconds": 0.05,
                "policy_max_age_seconds": MAX_AGE_SECONDS,
                "providers": [{"name": "fake", "base_url": provider.url}],
                "prices": {"unknown": "default"},
                "cache": {"semantic": False},
            }
            started = gateway(tmp_path / "gateway", settings)
            running = await asyncio.to_thread(started.__enter__)
            try:
                variants = [
                    {"name": name, "weight": weight, "target": {"provider": "fake", "model": name}}
                    for name, weight in (("off", 0), ("on", 1))
                ]
                await asyncio.to_thread(running.call, "PUT", "/routes/support", {"variants": variants})
                await asyncio.to_thread(running.call, "POST", "/tenants", {"id": "acme"})
                key = await asyncio.to_thread(running.key, "acme")
                assert (await ask(running.url, key)).status_code == 200
                assert sum((await counted(running.metrics_url)).values()) == 0
                await asyncio.to_thread(postgres.__exit__, None, None, None)
                served = await _until_refused(running.url, key)
                told = await counted(running.metrics_url)
            finally:
                await asyncio.to_thread(started.__exit__, None, None, None)
    finally:
        await asyncio.to_thread(postgres.__exit__, None, None, None)
    assert set(served[:-1]) == {(200, "on")}
    assert served[-1][0] == 503
    assert 0 < told["auth", "last_known"] == told["flags", "last_known"] < len(served)
    assert told["auth", "refused"] == 1


async def _until_refused(url: str, key: str) -> list[tuple[int, str | None]]:
    """Status and variant of call after call, the first that is not answered last."""
    served: list[tuple[int, str | None]] = []
    async with asyncio.timeout(WAIT):
        while not served or served[-1][0] == 200:
            answer = await ask(url, key)
            served.append((answer.status_code, answer.headers.get("x-tunegate-variant")))
            await asyncio.sleep(0.05)
    return served
