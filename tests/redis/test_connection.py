from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.exceptions import NoScriptError, OutOfMemoryError, ResponseError

from app.storage.redis import RedisDown, RedisStore, Script
from app.storage.redis_connection import Address, Connection, _error

COMMANDS = 20_000
LONG = 2.0


async def test_cancelled_commands_never_give_a_reply_to_somebody_else(redis_url: str) -> None:
    """Thousands of commands with tagged answers over one store, a third of them cancelled at any moment: 0 foreign."""
    chance = random.Random(7)
    foreign = answered = cancelled = 0

    async def one(tag: int) -> None:
        nonlocal foreign, answered
        value = b"tenant-%d" % tag + b"x" * chance.randrange(0, 2000)
        reply = await store.command("ECHO", value)
        answered += 1
        foreign += reply != value

    async with RedisStore.connect(redis_url, operation_timeout_seconds=LONG) as store:
        running: set[asyncio.Task[None]] = set()
        for tag in range(COMMANDS):
            running.add(asyncio.create_task(one(tag)))
            if chance.random() < 0.2:
                await asyncio.sleep(0)
            if chance.random() < 0.34:
                running.pop().cancel()
                cancelled += 1
            if len(running) > 200:
                _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.gather(*running, return_exceptions=True)
    assert foreign == 0
    assert answered > COMMANDS / 2
    assert cancelled > COMMANDS / 4


async def test_a_script_that_redis_forgot_is_sent_again(redis_url: str) -> None:
    """After SCRIPT FLUSH (or a restart) the next run loads the script."""
    script = Script("return ARGV[1]")
    async with RedisStore.connect(redis_url, operation_timeout_seconds=LONG) as store:
        assert await store.run(script, [], ["a"]) == b"a"
        await store.command("SCRIPT", "FLUSH")
        assert await store.run(script, [], ["b"]) == b"b"


async def test_an_error_of_redis_is_its_callers_alone(redis_url: str) -> None:
    """A command that Redis refuses fails for whoever sent it, and nobody else notices."""
    async with RedisStore.connect(redis_url, operation_timeout_seconds=LONG) as store:
        await store.command("SET", "text", "x")
        results = await asyncio.gather(
            store.command("ECHO", "a"),
            store.command("INCR", "text"),
            store.command("ECHO", "b"),
            return_exceptions=True,
        )
    assert results[0] == b"a"
    assert isinstance(results[1], ResponseError)
    assert results[2] == b"b"


async def test_a_read_is_shared_by_those_who_ask_before_it_leaves(redis_url: str) -> None:
    """One command for a whole turn of the event loop; who asks after it was sent gets a read of its own."""
    async with RedisStore.connect(redis_url, operation_timeout_seconds=LONG) as store:
        await store.command("SET", "revision", "1")
        first, second = store.read_together("GET", "revision"), store.read_together("GET", "revision")
        other = store.read_together("GET", "another")
        assert first is second
        assert first is not other
        changed = store.command("SET", "revision", "2")
        await asyncio.sleep(0)  # sent, and not answered
        third = store.read_together("GET", "revision")
        assert (await first, await changed, await third, await other) == (b"1", b"OK", b"2", None)


async def test_a_shared_read_survives_one_who_leaves(redis_url: str) -> None:
    """Who waits under a shield and is cancelled takes the answer from nobody."""
    async with RedisStore.connect(redis_url, operation_timeout_seconds=LONG) as store:
        await store.command("SET", "revision", "1")

        async def ask() -> bytes:
            answer: bytes = await asyncio.shield(store.read_together("GET", "revision"))
            return answer

        leaving, staying = asyncio.create_task(ask()), asyncio.create_task(ask())
        await asyncio.sleep(0)
        leaving.cancel()
        assert await staying == b"1"


async def test_everything_asked_in_one_turn_is_one_write(redis_url: str) -> None:
    """Commands of concurrent requests leave together: one system call for all of them."""
    async with RedisStore.connect(redis_url, operation_timeout_seconds=LONG) as store:
        connection = store._connection
        assert connection is not None
        assert connection._transport is not None
        sent: list[bytes] = []
        transport = connection._transport
        connection._transport = _Spy(transport.write, sent)  # type: ignore[assignment]  # white box
        await asyncio.gather(*(store.command("ECHO", str(i)) for i in range(50)))
        connection._transport = transport
    assert len(sent) == 1


class _Spy:
    def __init__(self, write: Callable[[bytes], None], sent: list[bytes]) -> None:
        self._write, self._sent = write, sent

    def write(self, data: bytes) -> None:
        self._sent.append(data)
        self._write(data)


@pytest.mark.parametrize("garbage", [b"?nonsense\r\n", b"+PONG\r\n+PONG\r\n+PONG\r\n+PONG\r\n", b"$3\r\nab"])
async def test_a_server_that_answers_wrongly_is_no_redis(garbage: bytes) -> None:
    """Bytes that are no reply, more replies than questions, half a reply: RedisDown, and never a wrong value."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(100)
            writer.write(garbage)
            await reader.read(100)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, RedisStore.connect(f"redis://127.0.0.1:{port}", operation_timeout_seconds=0.2) as store:
        with pytest.raises(RedisDown):
            await store.command("ECHO", "a")


async def test_it_signs_in_and_selects_its_database(redis_url: str) -> None:
    """User, password and database of the address are used; a wrong password is RedisDown, and is never printed."""
    base = redis_url.removesuffix("/0").removeprefix("redis://")
    async with RedisStore.connect(redis_url, operation_timeout_seconds=LONG) as admin:
        await admin.command("ACL", "SETUSER", "gate", "on", ">s3cret", "~*", "+@all")
        async with RedisStore.connect(f"redis://gate:s3cret@{base}/3", operation_timeout_seconds=LONG) as store:
            await store.command("SET", "here", "1")
            assert await store.command("ACL", "WHOAMI") == b"gate"
        assert await admin.get("here") is None
        errors: list[str] = []
        wrong = f"redis://gate:wr0ng@{base}/3"
        async with RedisStore.connect(wrong, operation_timeout_seconds=LONG, on_error=errors.append) as store:
            with pytest.raises(RedisDown):
                await store.ping()
        await admin.command("ACL", "DELUSER", "gate")
    assert errors == ["ResponseError"]
    assert "wr0ng" not in repr(Address.of(wrong))


def test_what_redis_says_while_it_cannot_serve_counts_as_down() -> None:
    """A server that loads its data or has become a replica is not one that refused our command."""
    assert isinstance(_error("LOADING Redis is loading the dataset in memory"), RedisDown)
    assert isinstance(_error("READONLY You can't write against a read only replica."), RedisDown)
    assert isinstance(_error("NOSCRIPT No matching script."), NoScriptError)
    assert isinstance(_error("WRONGTYPE Operation against a key"), ResponseError)


@pytest.mark.parametrize(
    "text",
    [
        "OOM command not allowed when used memory > 'maxmemory'.",
        "ERR Error running script: @user_script:1: -OOM command not allowed when used memory > 'maxmemory'",
    ],
)
def test_a_full_server_is_known_by_what_it_says(text: str) -> None:
    """A command of its own is refused in one way, one of a script in another by servers before Redis 7."""
    assert type(_error(text)) is OutOfMemoryError


@settings(deadline=None)
@given(st.data())
def test_replies_go_to_their_askers_however_the_bytes_are_cut(data: st.DataObject) -> None:
    """For any split of the stream of replies and any set of cancelled askers, each gets its own."""

    async def run() -> None:
        connection = Connection(1.0)
        answers = [connection.ask("GET", str(i)) for i in range(20)]
        cancelled = data.draw(st.sets(st.integers(0, 19)))
        for i in cancelled:
            answers[i].cancel()
        stream = b"".join(b"$%d\r\nvalue-%d\r\n" % (len(f"value-{i}"), i) for i in range(20))
        cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=30)))
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            connection.data_received(stream[start:end])
        for i, answer in enumerate(answers):
            assert answer.cancelled() if i in cancelled else answer.result() == b"value-%d" % i
        connection.end("Closed")

    asyncio.run(run())


def test_an_address_names_what_is_wrong() -> None:
    """What is no Redis URL is refused at the start."""
    with pytest.raises(ValueError, match="redis://"):
        Address.of("http://127.0.0.1:6379")
    assert Address.of("unix:///run/redis.sock").path == "/run/redis.sock"
    assert Address.of("rediss://cache.example:7000/2").tls is not None
