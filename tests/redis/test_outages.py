from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.exceptions import OutOfMemoryError, ResponseError

from app.storage.redis import RedisDown, RedisStore, Script
from tests.support.fault_proxy import fault_proxy
from tests.support.redis_server import RedisServer, redis_server

WAIT = 10
LONG = 5.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of this test's own."""
    with redis_server(tmp_path) as running:
        yield running


async def answers(store: RedisStore) -> None:
    """Return once Redis answers again; fails when it never does."""
    async with asyncio.timeout(WAIT):
        while True:
            await store.connected()
            try:
                await store.ping()
            except RedisDown:
                await asyncio.sleep(0.02)
            else:
                return


async def test_a_stopped_server_costs_one_timeout_and_then_nothing(server: RedisServer) -> None:
    """What was asked fails, what is asked next fails without being sent, and it is back when Redis goes on."""
    errors: list[str] = []
    async with RedisStore.connect(server.url, on_error=errors.append) as store:
        await answers(store)
        server.pause()
        async with asyncio.timeout(WAIT):
            first = await asyncio.gather(*(store.command("ECHO", "x") for _ in range(50)), return_exceptions=True)
            assert all(isinstance(result, RedisDown) for result in first)
            assert store.command("ECHO", "x").exception() is not None  # at once: nothing is awaited here
        server.go_on()
        await answers(store)
    assert errors[0] == "Timeout"


async def test_a_killed_server_is_found_again_when_it_is_back(server: RedisServer) -> None:
    """Commands fail while it is gone; the first after its return succeeds without anybody's help."""
    async with RedisStore.connect(server.url) as store:
        await answers(store)
        server.kill()
        with pytest.raises(RedisDown):
            async with asyncio.timeout(WAIT):
                while True:
                    await store.ping()
        server.start()
        await answers(store)


async def test_a_gateway_starts_without_redis(tmp_path: Path) -> None:
    """A store opened while Redis is away is usable as soon as it comes."""
    server = RedisServer(tmp_path)
    async with RedisStore.connect(server.url) as store:
        with pytest.raises(RedisDown):
            await store.ping()
        server.start()
        try:
            await answers(store)
        finally:
            server.close()


async def test_every_refusal_is_counted_by_its_class(tmp_path: Path) -> None:
    """At `maxmemory` reads go on and each refused write is told, also of a script; one not loaded yet is no refusal."""
    errors: list[str] = []
    write, read = Script("return redis.call('SET', KEYS[1], 'x')"), Script("return redis.call('GET', KEYS[1])")
    with redis_server(tmp_path, "--maxmemory-policy", "noeviction") as server:
        connected = RedisStore.connect(server.url, operation_timeout_seconds=LONG, on_error=errors.append)
        async with connected as store:
            await answers(store)
            await store.command("CONFIG", "SET", "maxmemory", "1")
            with pytest.raises(OutOfMemoryError):
                await store.command("SET", "key", "x")
            with pytest.raises(OutOfMemoryError):
                await store.run(write, ["key"], [])
            assert await store.run(read, ["key"], []) is None
            assert errors == ["OutOfMemoryError"] * 2
            with pytest.raises(ResponseError):
                await store.read_together("HGET", "key")
            assert errors[2:] == ["ResponseError"]


async def test_a_slow_server_counts_as_down(server: RedisServer) -> None:
    """Behind a proxy that delays every answer, nobody waits for it again once it is known to be slow."""
    errors: list[str] = []
    async with (
        fault_proxy(server.port) as proxy,
        RedisStore.connect(f"redis://127.0.0.1:{proxy.port}", on_error=errors.append) as store,
    ):
        await answers(store)
        for delay in (0.04, 0.3, 5.0):
            proxy.delay_seconds = delay
            async with asyncio.timeout(WAIT):
                while store._connection is not None:
                    await asyncio.gather(store.command("ECHO", "x"), return_exceptions=True)
                with pytest.raises(RedisDown):
                    await store.ping()
            proxy.delay_seconds = 0
            proxy.reset_all()
            await answers(store)
    assert "Slow" in errors
    assert "Timeout" in errors


async def test_every_broken_connection_is_replaced(server: RedisServer) -> None:
    """Resets, half-open connections, refusals and one byte at a time end in RedisDown and a new connection."""
    async with (
        fault_proxy(server.port) as proxy,
        RedisStore.connect(f"redis://127.0.0.1:{proxy.port}") as store,
    ):
        await answers(store)
        for fault in ("reset", "swallow", "refuse"):
            proxy.swallow, proxy.refuse = fault == "swallow", fault == "refuse"
            if fault != "swallow":
                proxy.reset_all()
            async with asyncio.timeout(WAIT):
                while store._connection is not None:
                    await asyncio.gather(store.command("ECHO", "x"), return_exceptions=True)
                    await asyncio.sleep(0)
            proxy.swallow = proxy.refuse = False
            proxy.reset_all()
            await answers(store)
        proxy.bytes_per_block = 1
        await answers(store)


async def test_a_stall_of_our_own_is_no_slowness_of_redis(server: RedisServer) -> None:
    """A process that did not run for four timeouts finds the replies that wait for it and fails nothing."""
    import time

    async with RedisStore.connect(server.url) as store:
        await answers(store)
        before = store._connection
        for _ in range(5):
            asked = [store.command("ECHO", "x") for _ in range(20)]
            await asyncio.sleep(0)
            time.sleep(0.2)  # noqa: ASYNC251 - the stall is the test
            assert await asyncio.gather(*asked) == [b"x"] * 20
        assert store._connection is before


async def test_a_subscriber_hears_again_after_a_restart(server: RedisServer) -> None:
    """Every (re)connection is told by an empty message, since something may have been missed."""
    connected = RedisStore.connect(server.url, operation_timeout_seconds=2)
    async with connected as store, store.subscribe("news") as messages:
        heard: asyncio.Queue[bytes] = asyncio.Queue()

        async def listen() -> None:
            async for message in messages:
                heard.put_nowait(message)

        listening = asyncio.create_task(listen())
        async with asyncio.timeout(WAIT):
            assert await heard.get() == b""
            await answers(store)
            await store.publish("news", b"one")
            assert await heard.get() == b"one"
            server.kill()
            server.start()
            assert await heard.get() == b""
            await answers(store)
            await store.publish("news", b"two")
            assert await heard.get() == b"two"
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
