"""Several gateways in front of the same servers: they agree, over a real Redis, and manage without it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.exceptions import ResponseError

from app.placement.gossip import Gossip
from app.placement.replica import HEARD_SECONDS, IDLE_SECONDS
from app.placement.replicas import ReplicaSet
from app.storage.redis import RedisDown, RedisStore
from tests.placement.adapters import Clock, adapter, pool

URLS = ("http://a", "http://b", "http://c")


class Gateway:
    """One gateway's view of the servers."""

    def __init__(self, clock: Clock) -> None:
        self.servers = ReplicaSet(pool(*URLS), clock=clock, usable=bool)
        self.gossip = Gossip({"pool": self.servers}, clock=clock)

    def call(self, name: str) -> str:
        """A call begins; returns the server it goes to."""
        self.servers.called(name)
        replica = self.servers.choose(name, "")
        assert replica is not None
        replica.enter(name)
        return replica.url


@pytest.fixture
def clock() -> Clock:
    """One time for all."""
    return Clock()


def _exchange(*gateways: Gateway) -> None:
    for message in [gateway.gossip.message() for gateway in gateways]:
        for gateway in gateways:
            gateway.gossip.hear(message)


def test_gateways_choose_by_the_load_of_all(clock: Clock) -> None:
    """A server that another gateway keeps busy is busy for this one too."""
    one, two = Gateway(clock), Gateway(clock)
    home = one.call("x")
    one.servers.replicas[home].leave("x")
    for number in range(40):
        two.servers.replicas[home].enter(f"busy-{number}")
    _exchange(one, two)
    assert one.servers.replicas[home].total_load == 40
    assert one.call("x") != home


def test_gateways_agree_on_what_is_hot(clock: Clock) -> None:
    """Each has seen half of the calls; both know all of them."""
    gateways = Gateway(clock), Gateway(clock)
    for number in range(100):
        gateway = gateways[number % 2]
        url = gateway.call("hot" if number % 4 else "cold")
        gateway.servers.replicas[url].leave("hot" if number % 4 else "cold")
    _exchange(*gateways)
    shares = [gateway.servers.popularity.share("hot") for gateway in gateways]
    assert shares[0] == pytest.approx(shares[1]) == pytest.approx(0.75)
    assert len({gateway.servers.popularity.homes("hot", 3) for gateway in gateways}) == 1
    _exchange(*gateways)
    assert gateways[0].servers.popularity.share("hot") == pytest.approx(0.75), "calls are told once"


def test_a_name_in_use_elsewhere_is_not_unloaded(clock: Clock) -> None:
    """The least recently used name of this gateway may be the busiest of another."""
    one, two = Gateway(clock), Gateway(clock)
    replica = one.servers.replicas["http://a"]
    for number in range(2):
        replica.register(adapter(number).id, adapter(number).path, clock())
    assert replica.idle_least_recent(clock()) is None, "both were used just now"
    clock.now += IDLE_SECONDS
    there = two.servers.replicas["http://a"]
    there.enter(adapter(0).id)
    _exchange(one, two)
    assert replica.idle_least_recent(clock()) == adapter(1).id
    assert replica.is_quiet(adapter(0).id), (
        "a call that waits for its adapter's load does not keep it from being loaded"
    )
    there.sent(adapter(0).id)
    _exchange(one, two)
    assert replica.idle_least_recent(clock()) == adapter(1).id
    assert not replica.is_quiet(adapter(0).id)
    there.ended(adapter(0).id)
    there.leave(adapter(0).id)
    replica.forget(adapter(1).id)
    assert replica.idle_least_recent(clock()) is None
    clock.now += IDLE_SECONDS
    _exchange(one, two)
    assert replica.idle_least_recent(clock()) == adapter(0).id
    assert replica.is_quiet(adapter(0).id)
    assert not replica.busy_elsewhere


def test_an_adapter_that_one_has_loaded_is_known_to_all(clock: Clock) -> None:
    """With its path, and resident in the mirror."""
    one, two = Gateway(clock), Gateway(clock)
    one.servers.replicas["http://a"].register("x", "/x", clock())
    _exchange(one, two)
    assert two.servers.replicas["http://a"].registered["x"].path == "/x"
    assert two.servers.replicas["http://a"].residency.host == ("x",)


def test_a_silent_gateway_is_forgotten(clock: Clock) -> None:
    """One that was killed has no calls in flight after a while."""
    one, two = Gateway(clock), Gateway(clock)
    two.servers.replicas["http://a"].enter("x")
    _exchange(one, two)
    replica = one.servers.replicas["http://a"]
    assert (replica.total_load, replica.distinct_adapters) == (1, 1)
    clock.now += HEARD_SECONDS + 0.1
    replica.forget_silent(clock())
    assert (replica.total_load, replica.distinct_adapters) == (0, 0)


@pytest.mark.parametrize("noise", [b"", b"{}", b"[1]", b"\xff", b'{"gateway":"x","pools":{"pool":{"http://a":{}}}}'])
def test_noise_on_the_channel_is_nothing(clock: Clock, noise: bytes) -> None:
    """Whatever stands on the channel, a gateway goes on."""
    one = Gateway(clock)
    one.gossip.hear(noise)
    assert all(not replica.elsewhere for replica in one.servers.replicas.values())


def test_unknown_pools_and_servers_are_nothing(clock: Clock) -> None:
    """Gateways of another configuration may share the channel."""
    other = ReplicaSet(pool("http://z", name="other"), clock=clock, usable=bool)
    one = Gateway(clock)
    one.gossip.hear(Gossip({"other": other, "pool": other}, clock=clock).message())
    assert set(one.servers.replicas) == set(URLS)


@asynccontextmanager
async def _talking(gateway: Gateway, url: str) -> AsyncIterator[None]:
    async with RedisStore.connect(url, operation_timeout_seconds=1.0) as store:
        loops = [
            asyncio.create_task(gateway.gossip.tell(store, (RedisDown, ResponseError))),
            asyncio.create_task(gateway.gossip.listen(store)),
        ]
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)


async def test_gateways_hear_one_another_over_redis(clock: Clock, redis_url: str) -> None:
    """The channel is a real Redis."""
    one, two = Gateway(clock), Gateway(clock)
    one.servers.replicas["http://b"].enter("x")
    async with _talking(one, redis_url), _talking(two, redis_url), asyncio.timeout(10):
        while two.servers.replicas["http://b"].total_load != 1:
            await asyncio.sleep(0.02)


async def test_a_gateway_without_redis_goes_on(clock: Clock) -> None:
    """An outage of the channel ends no loop and raises nothing."""

    class Away:
        """A channel that is down."""

        tried = 0

        async def publish(self, channel: str, payload: bytes) -> None:
            """Nobody hears."""
            self.tried += 1
            raise RedisDown("down")

    away = Away()
    telling = asyncio.create_task(Gateway(clock).gossip.tell(away, (RedisDown,)))  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        while away.tried < 2:
            await asyncio.sleep(0.05)
    assert not telling.done()
    telling.cancel()
