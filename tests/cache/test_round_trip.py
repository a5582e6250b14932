"""A lookup costs no round trip of its own, and a route without a cache costs nothing at all."""

from __future__ import annotations

from typing import Any

import pytest

from app.admission.redis import RedisAdmission
from app.cache.cache import AnswerCache, CacheConfig
from app.cache.embedder import MiniLM
from app.storage.redis import RedisStore
from app.types import CachePolicy
from tests.cache.calls import make_call, make_choice, make_principal

COMMANDS = (b"HMGET", b"GET", b"XRANGE", b"EVALSHA")


class Recorded:
    """A connection's transport that remembers each block written to the socket."""

    def __init__(self, transport: Any) -> None:
        self.blocks: list[bytes] = []
        self._transport = transport

    def write(self, block: bytes) -> None:
        """Remember, and pass on."""
        self.blocks.append(block)
        self._transport.write(block)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@pytest.mark.parametrize(
    ("policy", "asked"),
    [
        (CachePolicy(), ()),
        (CachePolicy(exact=True), (b"HMGET", b"GET")),
        (CachePolicy(semantic=True), (b"HMGET", b"GET", b"XRANGE")),
    ],
)
async def test_a_lookup_leaves_with_the_reservation(
    store: RedisStore, minilm: MiniLM, policy: CachePolicy, asked: tuple[bytes, ...]
) -> None:
    """Whatever the route keeps: one block to Redis holds the cache's questions and the admission script."""
    cache, admission = AnswerCache(store, minilm, CacheConfig()), RedisAdmission(store)
    principal, call, choice = make_principal(), make_call(), make_choice(policy)
    await admission.reserve(principal, call, choice, "req_first")  # loads the script
    connection = store._connection
    assert connection is not None
    recorded = Recorded(connection._transport)
    connection._transport = recorded  # type: ignore[assignment]  # it does what a transport does
    question = cache.ask(principal, call, choice)
    await admission.reserve(principal, call, choice, "req_second")
    assert await question.answer() is None
    assert len(recorded.blocks) == 1
    commands = [word for word in recorded.blocks[0].split(b"\r\n") if word in COMMANDS]
    assert tuple(commands) == (*asked, b"EVALSHA")
