"""What gateways tell one another of the servers they share, a few times a second, over Redis.

Each tells the calls that it has in flight, how often each adapter was called since, and the names that servers know. So
all choose by the same load and the same popularity, none takes a name off that another one is using, and an adapter
that one has loaded is known to all. Nothing depends on it: while Redis is away, and for a gateway alone, every gateway
goes by what it sees itself.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec
import structlog

from app.placement.replica import Clock, Replica
from app.placement.replicas import ReplicaSet

CHANNEL = "tg:placement"
TELL_SECONDS = 0.5
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_log = structlog.get_logger()


class Channel(Protocol):
    """Where gateways hear one another."""

    async def publish(self, channel: str, payload: bytes) -> None:
        """Tell every subscriber of a channel."""
        ...

    def subscribe(self, channel: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Messages of a channel; `b""` after each (re)connection."""
        ...


class _Server(msgspec.Struct):
    in_flight: dict[str, int]  # waiting for a slot or for their adapter's load included
    running: dict[str, int]
    uses: dict[str, int]
    names: dict[str, str]


class _Message(msgspec.Struct):
    gateway: str
    pools: dict[str, dict[str, _Server]]


_MESSAGE = msgspec.json.Decoder(_Message)


class Gossip:
    """One gateway's voice and ear."""

    def __init__(self, sets: Mapping[str, ReplicaSet], *, clock: Clock) -> None:
        self._sets = sets
        self._clock = clock
        self._name = secrets.token_hex(8)
        self._told: dict[str, set[str]] = {}

    def message(self) -> bytes:
        """What there is to tell now; calls are told once, names when they are new."""
        pools = {
            pool: {url: self._of(replica) for url, replica in replicas.replicas.items()}
            for pool, replicas in self._sets.items()
        }
        return msgspec.json.encode(_Message(self._name, pools))

    def hear(self, payload: bytes) -> None:
        """Take over what another gateway tells; our own voice, and what is no message, is nothing."""
        try:
            message = _MESSAGE.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        if message.gateway == self._name or len(payload) > MAX_MESSAGE_BYTES:
            return
        for pool, servers in message.pools.items():
            replicas = self._sets.get(pool)
            if replicas is None:
                continue
            for url, server in servers.items():
                if url in replicas.replicas:
                    self._take_over(message.gateway, replicas, replicas.replicas[url], server)
            replicas.heard()

    async def tell(self, channel: Channel, errors: tuple[type[Exception], ...]) -> None:
        """Tell the others, again and again, until cancelled; an outage is waited out."""
        while True:
            await asyncio.sleep(TELL_SECONDS)
            for replicas in self._sets.values():
                for replica in replicas.replicas.values():
                    replica.forget_silent(self._clock())
            try:
                await channel.publish(CHANNEL, self.message())
            except errors as exc:
                _log.debug("gossip_not_sent", error=type(exc).__name__)

    async def listen(self, channel: Channel) -> None:
        """Hear the others until cancelled."""
        async with channel.subscribe(CHANNEL) as messages:
            async for payload in messages:
                self.hear(payload)

    def _of(self, replica: Replica) -> _Server:
        known = self._told.setdefault(replica.url, set())
        names = {name: one.path for name, one in replica.registered.items() if name not in known}
        self._told[replica.url] = set(replica.registered)
        uses, replica.uses = dict(replica.uses), type(replica.uses)()
        return _Server(dict(replica.in_flight), dict(replica.running), uses, names)

    def _take_over(self, gateway: str, replicas: ReplicaSet, replica: Replica, server: _Server) -> None:
        now = self._clock()
        replica.heard(gateway, server.in_flight, server.running, now)
        for name, path in server.names.items():
            if name not in replica.registered:
                replica.register(name, path, now)
        for name, times in server.uses.items():
            if name == replica.pool.base_model:
                continue
            replica.use(name, now)
            for _ in range(times):
                replicas.popularity.count(name, now)
