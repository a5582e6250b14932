"""The door: malformed Authorization values, and keys that look alike, against a real gateway."""

from __future__ import annotations

import asyncio
import random
import string
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from app.auth.api_keys import PREFIX_CHARACTERS, digest
from app.storage.administration import keys, tenants
from app.storage.administration.change import changing
from app.storage.administration.keys import Key
from app.storage.administration.tenants import Tenant
from app.storage.database import database
from app.types import Limits, Operation
from tests.support.gateway import gateway

TENANTS = 20
CALLERS = 32
ALIKE = "tg-" + "a" * 17  # what all keys here begin with: twenty characters
BODY = 43
PRINTABLE = string.ascii_letters + string.digits + string.punctuation + " \t" + "".join(map(chr, range(0xA1, 0x100)))


@dataclass(frozen=True, slots=True)
class Knocked:
    """How often each status was the answer to a malformed value, and how many keys were taken for another."""

    statuses: Counter[int]
    confused: int


async def knocked(folder: Path, redis_url: str, *, values: int) -> Knocked:
    """Send them all to one gateway."""
    sql = f"sqlite:///{folder / 'truth.sqlite3'}"
    secrets = {f"t{number}": _alike(number) for number in range(TENANTS)}
    await _make(sql, secrets)
    settings = {
        "redis_url": redis_url,
        "database_url": sql,
        "cache": {"semantic": False},
        "telemetry": {"log_level": "error"},
    }
    with gateway(folder, settings) as running:
        for tenant in secrets:
            spec = {"variants": [{"name": "main", "weight": 1, "target": {"embedded": "minilm"}}]}
            await asyncio.to_thread(running.call, "PUT", f"/tenants/{tenant}/routes/only-{tenant}", spec)
        async with aiohttp.ClientSession(base_url=running.url) as session:
            statuses = await _statuses(
                session, [_malformed(number, list(secrets.values())) for number in range(values)]
            )
            confused = 0
            for tenant, secret in secrets.items():
                async with session.get("/v1/models", headers={"authorization": f"Bearer {secret}"}) as answer:
                    names = {model["id"] for model in (await answer.json())["data"]}
                    confused += names != {f"only-{tenant}"}
    return Knocked(statuses, confused)


async def _make(sql: str, secrets: dict[str, str]) -> None:
    async with database(sql) as engine, changing(engine) as change:
        for tenant, secret in secrets.items():
            await tenants.create(change, Tenant(tenant, None, Limits()))
            key = Key(
                id=f"key_{digest(secret.encode()).hex()[:24]}",
                tenant_id=tenant,
                team_id=None,
                name=None,
                prefix=secret[:PREFIX_CHARACTERS],
                operations=frozenset(Operation),
                routes=None,
                limits=Limits(),
                digest=digest(secret.encode()),
            )
            await keys.create(change, key)


async def _statuses(session: aiohttp.ClientSession, values: list[str]) -> Counter[int]:
    statuses: Counter[int] = Counter()
    left = iter(values)

    async def caller() -> None:
        for value in left:
            async with session.post("/v1/chat/completions", headers={"authorization": value}, data=b"{}") as answer:
                statuses[answer.status] += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return statuses


def _alike(number: int) -> str:
    return ALIKE + "".join(random.Random(number).choices(string.ascii_letters, k=BODY - 17))


def _malformed(number: int, good: list[str]) -> str:
    """Noise, or a good key that is cut, longer, changed, doubled, or sent another way."""
    chance = random.Random(number)
    key = chance.choice(good)
    noise = "".join(chance.choices(PRINTABLE, k=chance.randrange(1, 200)))
    return chance.choice(
        [
            noise,
            f"Bearer {noise}",
            f"Bearer {key[: chance.randrange(len(key))]}",
            f"Bearer {key}{chance.choice(string.ascii_letters)}",
            f"Bearer {key[:-1]}{'-' if key[-1] != '-' else '_'}",
            f"Bearer {key.swapcase()}",
            f"Bearer {key} {key}",
            f"Basic {key}",
            key,
            f"Bearer ey{noise}.{noise}.{noise}",
            "Bearer tg-" + "".join(chance.choices(string.ascii_letters, k=BODY)),
        ]
    )
