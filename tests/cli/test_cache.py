"""`tunegate cache` against a real gateway and the Redis inside its data folder."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from redis import Redis

from app.cache.key import label
from app.cache.promise import Promise, encode
from app.storage.embedded_redis import _socket
from tests.cli.conftest import Shell
from tests.cli.test_admin import failed, run
from tests.support.gateway import Gateway

OFF = Promise(1.0, 0.0, 0.0, 300, 9, off=True, misled=0.985, moved_at=1_800_000_000.0)
SPEC = {
    "variants": [{"name": "champion", "weight": 1, "target": {"provider": "main", "model": "m"}}],
    "cache": {"exact": True, "semantic": True},
}


@pytest.fixture
def redis(live: Gateway) -> Iterator[Redis]:
    """The gateway's own Redis."""
    with Redis(unix_socket_path=str(_socket(live.log.parent / "data" / "redis"))) as client:
        yield client


@pytest.fixture
def off(shell: Shell, redis: Redis) -> str:
    """A tenant whose route has switched its semantic cache off."""
    run(shell, "tenants", "create", "doubted")
    run(shell, "routes", "put", "cached", "-", "--tenant", "doubted", stdin=json.dumps(SPEC))
    redis.hset("tg:{doubted}:cache", f"p:{label('cached')}", encode(OFF))
    return "doubted"


def test_a_cache_that_is_off_is_seen_and_rearmed(shell: Shell, off: str) -> None:
    """The listing says which and why, re-arming shows it kept, and the audit log has both."""
    (seen,) = run(shell, "cache", "promise", "--standing", "off")["data"]
    assert (seen["tenant"], seen["route"], seen["wrong"], seen["false_hit_rate"]) == (off, "cached", 9, 0.03)
    table = shell("cache", "promise", "--tenant", off).out
    assert "no threshold below 0.99 is safe" in " ".join(table.split())
    (now,) = run(shell, "cache", "rearm", "cached", "--tenant", off)["data"]
    assert (now["standing"], now["comparisons"]) == ("kept", 0)
    assert run(shell, "cache", "promise", "--tenant", off, "--route", "cached")["data"] == [now]
    assert run(shell, "cache", "promise", "--standing", "off")["data"] == []
    assert "no route of that name" in failed(shell, "cache", "rearm", "absent")
    (entry,) = run(shell, "audit", f"cache/{off}/cached")["data"]
    assert (entry["before"]["standing"], entry["after"]["standing"]) == ("off", "kept")


def test_answers_are_forgotten_by_what_is_named(shell: Shell, redis: Redis) -> None:
    """Of one tenant without a question; a choice that says nothing or too much is refused by the API."""
    names = [
        f"tg:{{{tenant}}}:answer:{label('hot')}.{label('main')}.{label('')}.{label('')}:x" for tenant in ("a", "b")
    ]
    redis.mset(dict.fromkeys(names, "1"))
    assert run(shell, "cache", "forget", "--tenant", "a", "--route", "hot", "--variant", "main")["answers"] == 1
    assert [redis.exists(name) for name in names] == [0, 1]
    assert "tenant: say whose answers" in failed(shell, "cache", "forget")
    assert "adapter: expected without route" in failed(
        shell, "cache", "forget", "--tenant", "a", "--route", "r", "--adapter", "x"
    )


@pytest.mark.parametrize(
    ("options", "said", "left"), [((), "n\n", 1), ((), "", 1), ((), "y\n", 0), (("--yes",), "", 0)]
)
def test_forgetting_for_all_tenants_asks_first(
    shell: Shell, redis: Redis, options: tuple[str, ...], said: str, left: int
) -> None:
    """A no, and nobody who could say yes, forget nothing."""
    name = f"tg:{{any}}:answer:{label('wide')}.{label('main')}.{label('')}.{label('')}:x"
    redis.set(name, "1")
    done = shell("cache", "forget", "--route", "wide", *options, stdin=said)
    assert redis.exists(name) == left
    assert done.code == left
    assert ("Forget answers of wide of all tenants?" in done.err) is not bool(options)
    assert ("nothing was forgotten" in done.err) is bool(left)
