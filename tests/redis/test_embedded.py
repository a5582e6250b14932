from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.storage.embedded_redis import EmbeddedRedisError, embedded_redis
from app.storage.redis import RedisDown, RedisStore

WAIT = 20
_PARENT = """
import asyncio, sys
from pathlib import Path
from app.storage.embedded_redis import embedded_redis
from app.storage.redis import RedisStore

async def main():
    async with embedded_redis(Path(sys.argv[1])) as url, RedisStore.connect(url, operation_timeout_seconds=5) as store:
        await store.command("INCR", "count")
        print("ready", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def pid(store: RedisStore) -> int:
    """The process id of the server that answers, as soon as one does."""
    async with asyncio.timeout(WAIT):
        while True:
            await store.connected()
            try:
                info = await store.command("INFO", "server")
            except RedisDown:
                await asyncio.sleep(0.02)
            else:
                return int(info.split(b"process_id:")[1].split()[0])


def alive(process: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def gone(process: int) -> None:
    """Return when a process has ended."""
    async with asyncio.timeout(WAIT):
        while alive(process):
            await asyncio.sleep(0.02)


async def test_a_server_that_dies_is_started_again_with_what_it_knew(tmp_path: Path) -> None:
    """After kill -9 of the server the gateway has one again, and no acknowledged write is gone."""
    async with embedded_redis(tmp_path) as url, RedisStore.connect(url, operation_timeout_seconds=5) as store:
        await store.command("SET", "kept", "yes")
        first = await pid(store)
        os.kill(first, signal.SIGKILL)
        await gone(first)
        second = await pid(store)
        assert second != first
        assert await store.get("kept") == b"yes"
    await gone(second)


async def test_it_ends_with_a_killed_gateway_and_the_next_one_finds_everything(tmp_path: Path) -> None:
    """Killing the parent (-9) leaves no server behind; the next gateway starts one on the same file."""
    for turn in range(1, 3):
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _PARENT, str(tmp_path), stdout=subprocess.PIPE
        )
        assert parent.stdout is not None
        assert await parent.stdout.readline() == b"ready\n"
        async with embedded_redis(tmp_path) as url, RedisStore.connect(url, operation_timeout_seconds=5) as store:
            server = await pid(store)
            parent.kill()
            await parent.wait()
            await gone(server)
            taken_over = await pid(store)
            assert await store.get("count") == str(turn).encode()
        await gone(taken_over)


async def test_gateways_on_one_folder_share_one_server(tmp_path: Path) -> None:
    """Started at once, several use the same server; when the one that owns it ends, another one takes over."""
    async with asyncio.TaskGroup() as group:
        ready, leave = asyncio.Semaphore(0), [asyncio.Event() for _ in range(4)]
        pids: list[int] = []

        async def gateway(number: int) -> None:
            async with embedded_redis(tmp_path) as url, RedisStore.connect(url, operation_timeout_seconds=5) as store:
                pids.append(await pid(store))
                ready.release()
                await leave[number].wait()
                await pid(store)

        for number in range(4):
            group.create_task(gateway(number))
        for _ in range(4):
            await ready.acquire()
        assert len(set(pids)) == 1
        for event in leave:
            event.set()
            await asyncio.sleep(0.05)


async def test_a_deep_folder_gets_a_short_socket(tmp_path: Path) -> None:
    """A path that no unix socket can have is no obstacle."""
    deep = tmp_path / ("d" * 120)
    async with embedded_redis(deep) as url, RedisStore.connect(url, operation_timeout_seconds=5) as store:
        await store.ping()
    assert (deep / "appendonlydir").exists() or (deep / "appendonly.aof").exists()


async def test_a_server_that_cannot_start_says_where_its_log_is(tmp_path: Path) -> None:
    """An unreadable append-only file is an error that names the log, not a hang."""
    (tmp_path / "appendonly.aof").write_bytes(b"this is not an append-only file\n" * 10)
    with pytest.raises(EmbeddedRedisError, match=r"redis\.log"):
        async with embedded_redis(tmp_path):
            pass
