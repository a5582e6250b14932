"""A real PostgreSQL for tests: one server a session in a folder of its own, a database for whoever asks."""

from __future__ import annotations

import asyncio
import itertools
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest

from tests.support.processes import free_port, stop

T = TypeVar("T")
START_SECONDS = 30
USER = "tunegate"
_numbers = itertools.count()
_SPEED = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=100", "shared_buffers=32MB")


def binaries() -> Path:
    """The folder of the newest server programs; fails with advice where there are none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        pytest.fail("PostgreSQL is missing: run `make deps` (Debian package postgresql)")
    return Path(on_path).resolve().parent


@contextmanager
def running_postgres(folder: Path) -> Iterator[str]:
    """A server whose files are in `folder`, on loopback only; yields its URL without a database's name."""
    programs, port, who = binaries(), free_port(), _account()
    data = folder / "data"
    data.mkdir(mode=0o700)
    if who:
        _hand_over(folder, data, str(who["user"]))
    log = folder / "postgres.log"
    common: dict[str, Any] = {"cwd": data, "stdin": subprocess.DEVNULL, **who}
    with log.open("wb") as sink:
        made = subprocess.run(
            [programs / "initdb", "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
            stdout=sink,
            stderr=sink,
            check=False,
            **common,
        )
        if made.returncode != 0:
            pytest.fail(f"initdb failed:\n{log.read_text(encoding='utf-8')[-2000:]}")
        options = [part for option in _SPEED for part in ("-c", option)]
        process = subprocess.Popen(
            [programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", data, *options],
            stdout=sink,
            stderr=sink,
            start_new_session=True,
            **common,
        )
    try:
        _wait(process, port, log)
        yield f"postgresql://{USER}@127.0.0.1:{port}"
    finally:
        stop(process)


def new_database(server_url: str) -> str:
    """The URL of a new, empty database."""
    name = f"tunegate_{os.getpid()}_{next(_numbers)}"

    async def create() -> None:
        connection = await asyncpg.connect(f"{server_url}/postgres")
        try:
            await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()

    _run_apart(create())
    return f"{server_url}/{name}"


def _run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Run in a thread of its own: the caller may be inside a running event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def _account() -> dict[str, Any]:
    """PostgreSQL refuses to run as root: there it runs as the account of its package."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_name, "group": entry.pw_gid, "extra_groups": []}
    return {}


def _hand_over(folder: Path, data: Path, user: str) -> None:
    """Give the data folder to the server's account, and let it walk there through pytest's private folders."""
    shutil.chown(data, user)
    for parent in folder.parents:
        if parent.stat().st_uid != os.getuid() or parent == Path("/"):
            break
        parent.chmod(parent.stat().st_mode | 0o011)
    folder.chmod(folder.stat().st_mode | 0o011)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    async def answers() -> bool:
        try:
            connection = await asyncpg.connect(f"postgresql://{USER}@127.0.0.1:{port}/postgres", timeout=5)
        except (OSError, asyncpg.PostgresError, TimeoutError):
            return False
        await connection.close()
        return True

    deadline = time.monotonic() + START_SECONDS
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"PostgreSQL did not start:\n{log.read_text(encoding='utf-8')[-2000:]}")
        if _run_apart(answers()):
            return
        time.sleep(0.05)
