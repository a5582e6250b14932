"""How long a request to the gateway is tried again: while the lease may be alive, and not for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.gateway import Event, GatewayAway, JobOver, LeaseLost, NotTaken, TrainingApi
from adapters.training.artifact import pack
from tests.adapters.worker.test_parts import Clock, connected
from tests.support.fake_training_api import FakeJob, FakeTrainingApi

SAID = [Event("ftevent-1", 1, "info", "message", "Hello")]


async def claimed(fake: FakeTrainingApi, api: TrainingApi) -> FakeJob:
    """A job that the client has claimed, for a lease of 60 s."""
    job = fake.add("ftjob-1", b"rows")
    assert await api.claim("one", ["tunegate-tiny"], 0) is not None
    return job


async def test_a_request_is_tried_again_as_long_as_the_lease_may_be_alive() -> None:
    """An outage of nearly a lease costs time only; the client's pauses grow and stay short."""
    clock = Clock()
    async with FakeTrainingApi() as fake, connected(fake, clock) as api:
        job = await claimed(fake, api)
        fake.away = 10
        await api.events("ftjob-1", 1, SAID)
    assert job.messages == ["Hello"]
    assert 40 < clock.now < 60


async def test_a_request_is_given_up_when_the_lease_has_ended() -> None:
    """Somebody else may have the job then."""
    clock = Clock()
    async with FakeTrainingApi() as fake, connected(fake, clock) as api:
        await claimed(fake, api)
        fake.away = 1000
        with pytest.raises(GatewayAway, match="the gateway answered 503") as caught:
            await api.events("ftjob-1", 1, SAID)
    assert not isinstance(caught.value, NotTaken)
    assert 60 <= clock.now < 75


async def test_a_request_that_never_gets_through_is_given_up_while_heartbeats_do() -> None:
    """One broken part of the gateway does not keep a trainer for ever; a job that is let go is given up sooner."""
    clock, beat = Clock(), {"stage": "train"}

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        fake.away = 0
        await api.heartbeat("ftjob-1", 1, beat)
        fake.away = 1

    async with FakeTrainingApi() as fake, connected(fake, clock, sleep) as api:
        await claimed(fake, api)
        fake.away = 1
        with pytest.raises(NotTaken, match="while the lease was kept"):
            await api.events("ftjob-1", 1, SAID)
        assert 1800 <= clock.now < 1815
        api.hasten()
        fake.away = 1
        with pytest.raises(NotTaken):
            await api.release("ftjob-1", 1, "shutting down")
        assert 1810 <= clock.now < 1835


async def test_bytes_that_are_damaged_every_time_are_given_up(tmp_path: Path) -> None:
    """Sending them again and again does not mend the way."""
    clock = Clock()
    async with FakeTrainingApi(damage_uploads=1000) as fake, connected(fake, clock) as api:
        await claimed(fake, api)
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "x").write_bytes(b"x")
        sha256 = pack(tmp_path / "folder", tmp_path / "a.tar")
        with pytest.raises(NotTaken, match=r"a\.tar arrived damaged 6 times"):
            await api.upload("ftjob-1", 1, tmp_path / "a.tar", sha256)


async def test_what_is_not_the_gateways_answer_is_asked_again() -> None:
    """Another server at the gateway's address, as during a change of an ingress, ends nothing."""
    clock = Clock()
    async with FakeTrainingApi() as fake, connected(fake, clock) as api:
        job = await claimed(fake, api)
        fake.elsewhere = [404, 409]
        await api.fail("ftjob-1", 1, "training_failed", "no", None)
        assert job.status == "failed"
        fake.elsewhere = [200]
        with pytest.raises(GatewayAway, match="is this the gateway's address"):
            await api.heartbeat("ftjob-1", 1, {"stage": "train"})


async def test_a_job_that_was_let_go_is_told_apart() -> None:
    """Still held, resting, taken by another, over, gone: asking changes nothing."""
    clock = Clock()
    async with FakeTrainingApi() as fake, connected(fake, clock) as api:
        job = await claimed(fake, api)
        assert not await api.is_resting("ftjob-1", 1)
        assert (job.status, job.spec["attempt"], job.events) == ("running", 1, {})
        for status in ("paused", "queued"):
            job.status = status
            assert await api.is_resting("ftjob-1", 1)
            assert job.status == status
        assert await api.claim("two", ["tunegate-tiny"], 0) is not None
        with pytest.raises(LeaseLost):
            await api.is_resting("ftjob-1", 1)
        assert (job.status, job.holder) == ("running", "two")
        job.status = "cancelled"
        with pytest.raises(JobOver):
            await api.is_resting("ftjob-1", 2)
        del fake.jobs["ftjob-1"]
        with pytest.raises(JobOver):
            await api.is_resting("ftjob-1", 2)
