"""The webhook outbox: signed as OpenAI signs, sent until it is taken, by one of many senders at a time."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from openai import InvalidWebhookSignatureError, OpenAI
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.recording.egress import ForbiddenAddress, PublicResolver, check_url, is_public, public_client
from app.recording.webhooks import Deliverer, endpoint_secret, sign
from app.storage import outbox
from app.storage.administration import tenants
from app.storage.administration.change import changing
from app.storage.administration.tenants import Tenant
from app.storage.database import database
from app.storage.outbox import PATIENCE_SECONDS, RETRY_SECONDS, TAKEN_SECONDS, Endpoint, Event
from app.storage.tables import webhook_deliveries
from app.types import Limits
from tests.support.postgres import new_database

KEY = "the-key-of-this-installation"
NOW = 1_700_000_000.0
EVENT = Event.of("acme", "ftjob-1", "fine_tuning.job.succeeded", {"id": "ftjob-1"}, at=NOW)


@dataclass
class Receiver:
    """A tenant's server: answers with `status`, keeps what came."""

    url: str = ""
    status: int = 200
    got: list[tuple[dict[str, str], str]] = field(default_factory=list)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A real HTTP server on loopback."""
    made = Receiver()

    async def take(request: web.Request) -> web.Response:
        made.got.append(({name.lower(): value for name, value in request.headers.items()}, await request.text()))
        return web.Response(status=made.status, headers={"location": made.url} if made.status == 302 else {})

    app = web.Application()
    app.router.add_post("/hooks", take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hooks"
    yield made
    await runner.cleanup()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """A database with one tenant."""
    url = f"sqlite:///{tmp_path / 'hooks.sqlite3'}"
    if request.param == "postgresql":
        url = new_database(request.getfixturevalue("postgres_server"))
    async with database(url) as opened:
        async with changing(opened) as change:
            await tenants.create(change, Tenant("acme", None, Limits()))
        yield opened


@dataclass
class Sender:
    """A deliverer with a clock that tests move."""

    deliverer: Deliverer
    now: list[float]
    counted: list[str]

    async def after(self, seconds: float) -> int:
        """Move the clock and send what is due."""
        self.now[0] += seconds
        return await self.deliverer.deliver_due()


@pytest.fixture
async def sender(engine: AsyncEngine) -> AsyncIterator[Sender]:
    """A sender that may reach loopback."""
    now, counted = [NOW], list[str]()
    async with public_client(timeout_seconds=5, allow_private=True) as client:
        deliverer = Deliverer(engine, client, KEY, allow_private=True, clock=lambda: now[0], count=counted.append)
        yield Sender(deliverer, now, counted)


async def endpoint(engine: AsyncEngine, url: str, *events: str) -> Endpoint:
    """A new endpoint of the tenant."""
    async with engine.begin() as connection:
        return await outbox.add_endpoint(connection, "acme", url, events or ("*",), now=NOW)


async def announced(engine: AsyncEngine, event: Event = EVENT) -> int:
    """For how many endpoints the event is new."""
    async with engine.begin() as connection:
        return await outbox.announce(connection, "acme", event)


async def test_an_event_arrives_once_and_openais_sdk_believes_it(
    engine: AsyncEngine, receiver: Receiver, sender: Sender
) -> None:
    """The official SDK unwraps the delivery with the endpoint's secret, and refuses it with any other."""
    made = await endpoint(engine, receiver.url)
    assert await announced(engine) == 1
    assert await announced(engine) == 0
    now = sender.now[0] = time.time()  # the SDK compares with its own clock
    assert await sender.after(0) == 1
    assert await sender.after(10**6) == 0
    ((headers, body),) = receiver.got
    secret = sender.deliverer.secret(made)
    client = OpenAI(api_key="k", webhook_secret=secret)
    event = client.webhooks.unwrap(body, headers)
    assert (event.type, event.id) == ("fine_tuning.job.succeeded", EVENT.id)
    assert event.data.id == "ftjob-1"  # type: ignore[union-attr]
    other = OpenAI(api_key="k", webhook_secret=endpoint_secret("another key", made.id))
    with pytest.raises(InvalidWebhookSignatureError):
        other.webhooks.unwrap(body, headers)
    client.close()
    other.close()
    assert headers["webhook-timestamp"] == str(int(now))
    assert sender.counted == ["delivered"]


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The known answer of the specification's own example."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    made = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, '{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_what_is_not_taken_is_tried_again_until_it_is(
    engine: AsyncEngine, receiver: Receiver, sender: Sender
) -> None:
    """503, a redirect and a dead port count as not taken; the pauses are the schedule's; then it arrives, same id."""
    await endpoint(engine, receiver.url)
    await announced(engine)
    for status, pause in ((503, 0.0), (302, RETRY_SECONDS[0])):
        receiver.status = status
        assert await sender.after(pause) == 1
        assert await sender.after(0) == 0
    receiver.status = 204
    assert await sender.after(RETRY_SECONDS[1] - 1) == 0
    assert await sender.after(1) == 1
    assert await sender.after(10**6) == 0
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert sender.counted == ["failed", "failed", "delivered"]


async def test_an_endpoint_that_takes_nothing_for_days_is_switched_off_and_can_be_revived(
    engine: AsyncEngine, receiver: Receiver, sender: Sender
) -> None:
    """Given up after the schedule's end; off after five days of nothing; revived, it gets all that did not arrive."""
    made = await endpoint(engine, receiver.url)
    receiver.status = 500
    await announced(engine)
    for pause in (0.0, *RETRY_SECONDS):
        assert await sender.after(pause) == 1
    assert await sender.after(10**6) == 0
    later = Event.of("acme", "ftjob-2", "fine_tuning.job.failed", {"id": "ftjob-2"}, at=sender.now[0])
    await announced(engine, later)
    assert sender.now[0] > NOW + PATIENCE_SECONDS
    assert await sender.after(0) == 1
    assert await sender.after(10**6) == 0
    assert await announced(engine, Event.of("acme", "x", "t.x", {}, at=1)) == 0
    receiver.status = 200
    receiver.got.clear()
    async with engine.begin() as connection:
        assert (await outbox.revive_endpoint(connection, "acme", made.id, now=sender.now[0])).disabled_at is None
    assert await sender.after(0) == 2
    assert {headers["webhook-id"] for headers, _ in receiver.got} == {EVENT.id, later.id}
    tried = ["failed"] * len(RETRY_SECONDS)
    assert sender.counted == [*tried, "given_up", "switched_off", "delivered", "delivered"]


async def test_many_senders_send_an_event_once(engine: AsyncEngine, receiver: Receiver, sender: Sender) -> None:
    """Eight gateways look at the same moment: one sends; one that died on the way only delays it."""
    await endpoint(engine, receiver.url)
    await announced(engine)
    await asyncio.gather(*(sender.deliverer.deliver_due() for _ in range(8)))
    assert len(receiver.got) == 1
    await announced(engine, Event.of("acme", "two", "t.x", {}, at=NOW))
    async with engine.begin() as connection:
        assert len(await outbox.take_due(connection, now=NOW)) == 1  # and this one dies
    assert await sender.after(TAKEN_SECONDS - 1) == 0
    assert await sender.after(1) == 1


async def test_an_endpoint_gets_what_it_asked_for(engine: AsyncEngine, receiver: Receiver, sender: Sender) -> None:
    """Types are a filter; a deleted endpoint gets nothing more, and its deliveries go with it."""
    made = await endpoint(engine, receiver.url, "budget.reached")
    assert await announced(engine) == 0
    assert await announced(engine, Event.of("acme", "b", "budget.reached", {}, at=NOW)) == 1
    async with engine.begin() as connection:
        await outbox.drop_endpoint(connection, "acme", made.id)
        assert (await connection.execute(select(webhook_deliveries))).all() == []
    assert await sender.after(10) == 0


async def test_a_refused_address_is_not_connected_to(engine: AsyncEngine, receiver: Receiver) -> None:
    """A private literal, and a name that resolves to loopback (as after a rebinding): no connection, a failure each."""
    port = receiver.url.split(":")[2].split("/")[0]
    for url in (
        receiver.url.replace("http", "https"),
        f"https://localhost:{port}/hooks",
        f"https://2130706433:{port}/",
    ):
        await endpoint(engine, url)
    await announced(engine)
    counted: list[str] = []
    async with public_client(timeout_seconds=5) as client:
        assert await Deliverer(engine, client, KEY, clock=lambda: NOW, count=counted.append).deliver_due() == 3
    assert counted == ["failed"] * 3
    async with engine.connect() as connection:
        rows = (await connection.execute(select(webhook_deliveries.c.last_error))).scalars().all()
    assert sorted(rows) == ["ClientConnectorDNSError", "InvalidUrlClientError", "expected a public address"]
    assert receiver.got == []


async def test_deliveries_wait_while_sql_is_away(tmp_path: Path, receiver: Receiver) -> None:
    """`run` goes on after an outage of the database: what was announced arrives when it is back."""
    async with database(f"sqlite:///{tmp_path / 'away.sqlite3'}") as opened:
        async with changing(opened) as change:
            await tenants.create(change, Tenant("acme", None, Limits()))
        await endpoint(opened, receiver.url)
        await announced(opened)
        async with public_client(timeout_seconds=5, allow_private=True) as client:
            away = Away(opened)
            task = asyncio.create_task(Deliverer(away, client, KEY, allow_private=True).run())
            async with asyncio.timeout(20):
                while not receiver.got:
                    await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert (len(receiver.got), away.left) == (1, 0)


class Away(AsyncEngine):
    """A database that does not answer the first time it is asked."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine.sync_engine)
        self.left = 1

    def begin(self) -> Any:
        """Away, then there."""
        if self.left:
            self.left -= 1
            raise OSError("connection refused")
        return super().begin()


PRIVATE = (
    "127.0.0.1",
    "127.8.8.8",
    "10.0.0.1",
    "172.16.3.4",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "192.0.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "2002:7f00:1::",
    "2002:a00:1::",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "no address",
    "",
)


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_out_in_the_internet_is_not_public(address: str) -> None:
    """Loopback, private, link-local, metadata, shared, documentation, multicast, and each of them in disguise."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::808:808"]
)
def test_an_address_out_in_the_internet_is_public(address: str) -> None:
    """Nothing is refused that could be a receiver."""
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "https://",
        "https://user:pw@example.com/",
        "https://example.com/#part",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://example.com:99999/",
        "not a url",
        "https://example.com/" + "x" * 2000,
    ],
)
def test_a_url_that_no_receiver_has_is_refused_in_words(url: str) -> None:
    """Only https to a public host, without a user or a fragment."""
    problem = check_url(url)
    assert problem is not None
    assert problem.startswith("expected")


def test_a_closed_network_may_be_allowed() -> None:
    """The setting takes http and private addresses, and still no other schemes."""
    assert check_url("http://10.0.0.7/hooks", allow_private=True) is None
    assert check_url("gopher://10.0.0.7/", allow_private=True) is not None
    assert check_url("https://example.com/hooks") is None


class Names(AbstractResolver):
    """A name service that says what a test wants."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Those addresses."""
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None:
        """Nothing to do."""


async def test_a_name_gives_its_public_addresses_only() -> None:
    """Of a public and a private address the public one is used; with private ones alone the name is refused."""
    mixed = await PublicResolver(Names("10.0.0.1", "1.1.1.1")).resolve("mixed.example")
    assert [result["host"] for result in mixed] == ["1.1.1.1"]
    with pytest.raises(ForbiddenAddress):
        await PublicResolver(Names("10.0.0.1", "::1")).resolve("rebound.example")
    everything = await PublicResolver(Names("10.0.0.1"), allow_private=True).resolve("inner.example")
    assert len(everything) == 1
    async with public_client(timeout_seconds=1) as client:
        assert isinstance(client, aiohttp.ClientSession)
