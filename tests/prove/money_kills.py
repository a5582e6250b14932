"""Gateways killed (-9) in the middle of streams: the ledger against the provider's own count, request by request."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from sqlalchemy import Table, select

from app.storage.database import database
from app.storage.redis import RedisStore
from app.storage.tables import audit_log, budget_events, ledger
from tests.admission.cases import counters
from tests.support.gateway import Gateway, gateway
from tests.support.provider import Peer, Received, events, fake_provider

WORDS = 30
PROMPT = 5
TOKEN_MICROUSD = 10
PRICE = {"input_usd_per_mtok": 10, "output_usd_per_mtok": 10}
TOLD_MICROUSD = 5_000  # a budget that is only told about: what becomes of it must be told once, whoever is killed
LEASE_SECONDS = 5
SETTLED_SECONDS = 60
ADMIN_KEY = "prove-money-admin-key-0123456789abcdefghi"


@dataclass(slots=True)
class Count:
    """What the provider says it made: tokens by call, and which call became which request of the gateway."""

    tokens: dict[str, int] = field(default_factory=dict)
    requests: dict[str, str] = field(default_factory=dict)

    async def script(self, request: Received, peer: Peer) -> None:
        """Stream slowly, and count what was sent."""
        name = request.json["messages"][0]["content"]
        self.tokens[name] = PROMPT
        await peer.head(200, "text/event-stream; charset=utf-8")
        for event in events(request.json["model"], ["word "] * WORDS, include_usage=True):
            await peer.chunk(event)
            self.tokens[name] += event.count(b'"content":"word ')
            await asyncio.sleep(0.004)
        await peer.chunk(b"")


@dataclass(frozen=True, slots=True)
class Killed:
    """The figures: money in micro-dollars, the difference in calls' worth; events are missing or told twice."""

    kills: int
    requests: int
    ledger_microusd: int
    provider_microusd: int
    wrong: int
    doubled: int
    leaked: int
    untold: int

    @property
    def within(self) -> bool:
        """Whether ledger and provider differ by no more than one call per kill, and nothing else is off."""
        one = (PROMPT + 2 * WORDS) * TOKEN_MICROUSD
        near = abs(self.ledger_microusd - self.provider_microusd) <= self.kills * one
        return near and not (self.wrong or self.doubled or self.leaked or self.untold)


async def killed(folder: Path, redis_url: str, *, kills: int, gateways: int = 2) -> Killed:
    """Kill each gateway over and over while one caller streams through it."""
    count, sql = Count(), f"sqlite:///{folder / 'truth.sqlite3'}"
    async with fake_provider(count.script) as provider:
        settings = {
            "redis_url": redis_url,
            "database_url": sql,
            "providers": [{"name": "fake", "base_url": provider.url}],
            "prices": {"models": {"fake/*": PRICE}},
            "admission": {"lease_seconds": LEASE_SECONDS},
            "cache": {"semantic": False},
            "telemetry": {"log_level": "warning"},
        }
        key = await asyncio.to_thread(_prepare, folder, settings)
        await asyncio.gather(
            *(
                _again_and_again(folder / f"g{i}", settings, key, count, range(i, kills, gateways))
                for i in range(gateways)
            )
        )
        leaked = await asyncio.to_thread(_settle, folder, settings, redis_url)
    rows = await _rows(sql, ledger)
    wrong = doubled = 0
    charged: dict[str, int] = {}
    for row in rows:
        doubled += row["request_id"] in charged and not row["adjustment"]
        charged[row["request_id"]] = charged.get(row["request_id"], 0) + row["cost_microusd"]
        if row["outcome"] == "ok":
            made = count.tokens[count.requests[row["request_id"]]]
            wrong += row["cost_microusd"] != made * TOKEN_MICROUSD
    wrong += sum(name not in charged for name in count.requests)
    return Killed(
        kills=kills,
        requests=len(count.tokens),
        ledger_microusd=sum(charged.values()),
        provider_microusd=sum(count.tokens.values()) * TOKEN_MICROUSD,
        wrong=wrong,
        doubled=doubled,
        leaked=leaked,
        untold=await _untold(sql, sum(charged.values())),
    )


def _prepare(folder: Path, settings: dict[str, Any]) -> str:
    with gateway(folder / "first", settings, admin_key=ADMIN_KEY) as running:
        limits = {"budget_day_microusd": 10**9, "budget_total_microusd": TOLD_MICROUSD, "breaker": "alert"}
        running.call("POST", "/tenants", {"id": "acme", "limits": limits})
        target = {"provider": "fake", "model": "m"}
        running.call("PUT", "/routes/support", {"variants": [{"name": "main", "weight": 1, "target": target}]})
        return running.key("acme")


async def _again_and_again(folder: Path, settings: dict[str, Any], key: str, count: Count, kills: range) -> None:
    chance = random.Random(kills.start)
    for number in kills:
        with ExitStack() as stack:
            running = await asyncio.to_thread(stack.enter_context, gateway(folder, settings, admin_key=ADMIN_KEY))
            calling = asyncio.create_task(_call_for_ever(running, key, count, number))
            await asyncio.sleep(0.3 + chance.random() / 2)
            running.process.kill()
            await asyncio.to_thread(running.process.wait)
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)


async def _call_for_ever(running: Gateway, key: str, count: Count, number: int) -> None:
    headers = {"authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for turn in itertools.count():
            name = f"{number}-{turn}"
            messages = [{"role": "user", "content": name}]
            body = {"model": "support", "stream": True, "max_tokens": WORDS, "messages": messages}
            with suppress(aiohttp.ClientError):
                async with session.post(f"{running.url}/v1/chat/completions", json=body) as answer:
                    count.requests[answer.headers["x-request-id"]] = name
                    async for _ in answer.content:
                        pass
            await asyncio.sleep(0)


def _settle(folder: Path, settings: dict[str, Any], redis_url: str) -> int:
    """What is still held when a gateway has had the lease's time and some more."""

    async def left() -> int:
        async with RedisStore.connect(redis_url, operation_timeout_seconds=5) as store:
            held = 1
            for _ in range(SETTLED_SECONDS * 2):
                account = await counters(store, "tenant:acme")
                held = account["n"] + account["hc"] + await store.command("ZCARD", "tg:{acme}:leases")
                held += await store.command("XLEN", "tg:{acme}:ledger")
                if not held:
                    break
                await asyncio.sleep(0.5)
            return int(held)

    with gateway(folder / "last", settings, admin_key=ADMIN_KEY):
        return asyncio.run(left())


async def _untold(sql: str, spent: int) -> int:
    """How many events of the budget are missing, in SQL or in the audit log, or stand there more than once."""
    expected = Counter(percent for percent in (50, 80, 100) if spent * 100 >= percent * TOLD_MICROUSD)
    events = Counter(row["percent"] for row in await _rows(sql, budget_events) if row["event"] == "budget_reached")
    entries = [row["after"] for row in await _rows(sql, audit_log) if row["object"].startswith("budgets/")]
    logged = Counter(after["percent"] for after in entries if after["event"] == "budget_reached")
    return sum(abs(found[percent] - expected[percent]) for found in (events, logged) for percent in (50, 80, 100))


async def _rows(sql: str, table: Table) -> list[dict[str, Any]]:
    async with database(sql) as engine, engine.connect() as connection:
        return [dict(row) for row in (await connection.execute(select(table))).mappings()]
