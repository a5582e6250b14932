"""What a vLLM server says is judged by its words, over every version's status codes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from app.placement.control import AlreadyLoaded, InvalidAdapter, ReplicaControl, ReplicaError
from tests.placement.adapters import adapter, pool
from tests.support.processes import free_port
from tests.support.provider import Provider, fake_provider, silent, whole
from tests.support.replica import FakeReplica, fake_replica


@pytest.fixture
async def control() -> AsyncIterator[ReplicaControl]:
    """The control client."""
    async with ReplicaControl() as client:
        yield client


@pytest.fixture
async def replica() -> AsyncIterator[FakeReplica]:
    """A server that behaves."""
    async with fake_replica() as running:
        yield running


@pytest.fixture
async def scripted() -> AsyncIterator[Provider]:
    """A server that says what tests script."""
    async with fake_provider() as running:
        yield running


async def test_load_list_unload(control: ReplicaControl, replica: FakeReplica) -> None:
    """A name is registered under its path, listed without the base model, and taken off."""
    place, version = pool(replica.url), adapter(1)
    await control.load(place, replica.url, version)
    assert await control.models(place, replica.url) == {version.id: version.path}
    assert replica.requests[0] == ("load", {"lora_name": version.id, "lora_path": version.path})
    with pytest.raises(AlreadyLoaded):
        await control.load(place, replica.url, version)
    await control.unload(place, replica.url, version.id)
    await control.unload(place, replica.url, version.id)
    assert await control.models(place, replica.url) == {}


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "Loading lora x failed: No adapter found for <path>"),
        (500, "Call to add_lora method failed: LoRA rank 64 is greater than max_lora_rank 16."),
        (400, "LoRA rank 64 is greater than max_lora_rank 16."),
        (500, "vLLM does not yet support DoRA."),
        (400, "The lora adapter 'base' conflicts with a served base model."),
        (400, "1 validation error(s): lora_name"),
        (
            500,
            "expected target modules in {...} but received ['x']. Please verify that the loaded module is correct",
        ),
    ],
)
async def test_what_can_never_load_is_told_apart(
    control: ReplicaControl, replica: FakeReplica, status: int, message: str
) -> None:
    """The status is 400, 404 or 500 over vLLM's versions; the words are what is reliable."""
    replica.load_answers = [(status, message)]
    with pytest.raises(InvalidAdapter):
        await control.load(pool(replica.url), replica.url, adapter(1))


@pytest.mark.parametrize("message", ["CUDA out of memory", "engine is dead", "", "injected failure while loading a"])
async def test_what_may_pass_is_told_apart(control: ReplicaControl, replica: FakeReplica, message: str) -> None:
    """Out of memory or out of luck: another try may help."""
    replica.load_answers = [(500, message)]
    with pytest.raises(ReplicaError) as caught:
        await control.load(pool(replica.url), replica.url, adapter(1))
    assert type(caught.value) is ReplicaError


async def test_a_server_that_takes_no_adapters_says_how_to_change_that(
    control: ReplicaControl, scripted: Provider
) -> None:
    """FastAPI's bare 404 means that runtime updating is off."""
    scripted.then(whole(b'{"detail":"Not Found"}', 404))
    with pytest.raises(InvalidAdapter, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        await control.load(pool(scripted.url), scripted.url, adapter(1))


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b'{"data":[{"name":1}]}', b"\xff\xfe"])
async def test_a_list_that_is_none_is_an_error(control: ReplicaControl, scripted: Provider, body: bytes) -> None:
    """A wrong list is not an empty one: nothing is forgotten because of it."""
    scripted.then(whole(body))
    with pytest.raises(ReplicaError):
        await control.models(pool(scripted.url), scripted.url)


async def test_an_endless_list_is_bounded(control: ReplicaControl, scripted: Provider) -> None:
    """A server cannot fill our memory."""
    scripted.then(whole(b" " * 9 * 1024 * 1024))
    with pytest.raises(ReplicaError, match="too large"):
        await control.models(pool(scripted.url), scripted.url)


async def test_health(control: ReplicaControl, replica: FakeReplica) -> None:
    """Ill by its own word, or not there."""
    place = pool(replica.url)
    assert await control.alive(place, replica.url)
    replica.healthy = False
    assert not await control.alive(place, replica.url)
    assert not await control.alive(place, f"http://127.0.0.1:{free_port()}")


async def test_a_silent_server_is_an_error_in_time(control: ReplicaControl, scripted: Provider) -> None:
    """A load that never answers ends at the pool's load time."""
    scripted.then(silent)
    with pytest.raises(ReplicaError, match="no answer"):
        await control.load(pool(scripted.url, load_timeout_seconds=0.1), scripted.url, adapter(1))


async def test_the_pools_key_is_sent(control: ReplicaControl, scripted: Provider) -> None:
    """VLLM's --api-key."""
    scripted.then(whole(b'{"data":[]}'))
    await control.models(pool(scripted.url, api_key="secret"), scripted.url)
    assert scripted.received[0].headers["authorization"] == "bearer secret"
