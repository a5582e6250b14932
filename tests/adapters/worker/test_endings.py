"""Ways in which a job ends that nobody wishes for: each is told, and none takes the trainer with it."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.worker import job as job_module
from tests.adapters.worker.test_trainer import rows, settings, steps_of, trainer, until
from tests.support.fake_training_api import FakeTrainingApi

__all__ = ["rows"]  # the fixture


def raising(error: Exception) -> Callable[..., Any]:
    """A stage with a defect."""

    def stage(*_: Any, **__: Any) -> Any:
        raise error

    return stage


async def test_a_defect_of_ours_fails_the_job_and_not_the_trainer(
    tmp_path: Path, rows: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tenant reads that it is ours and at which stage; neither the log nor the job has the error's own text."""
    monkeypatch.setattr(job_module, "prepare", raising(TypeError("'Jane Doe' is not a list")))
    async with FakeTrainingApi() as api:
        job = api.add("ftjob-odd", rows)
        async with trainer(settings(tmp_path, api.url)) as (running, _):
            await until(lambda: job.status == "failed", seconds=20)
            assert not running.done()
    assert job.error is not None
    assert (job.error["code"], job.token) == ("training_failed", 1)
    assert "(TypeError, at `prepare`)" in job.error["message"]
    told = capsys.readouterr().out
    assert "job_met_a_defect" in told
    assert "test_endings.py" in told
    assert "Jane" not in told + job.error["message"]


async def test_a_full_disk_is_said_and_any_other_trouble_of_the_machine_ends_the_trainer(
    tmp_path: Path, rows: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the next job would meet too is not this job's fault."""
    monkeypatch.setattr(job_module, "prepare", raising(OSError(errno.ENOSPC, "No space left on device")))
    async with FakeTrainingApi() as api:
        job = api.add("ftjob-full", rows)
        async with trainer(settings(tmp_path, api.url)):
            await until(lambda: job.status == "failed", seconds=20)
        assert job.error is not None
        assert job.error["code"] == "insufficient_storage"
        monkeypatch.setattr(job_module, "prepare", raising(OSError(errno.EIO, "Input/output error")))
        broken = api.add("ftjob-broken", rows)
        async with trainer(settings(tmp_path, api.url)) as (running, _):
            with pytest.raises(OSError, match="Input/output"):
                await asyncio.wait_for(running, 20)
    assert broken.status == "running"


@pytest.mark.parametrize("where", ["POST complete", "POST heartbeat"])
async def test_what_the_gateway_refuses_fails_the_job_with_its_reason(tmp_path: Path, rows: bytes, where: str) -> None:
    """As the registration of a version that was marked failed: it is not trained three times over."""
    async with FakeTrainingApi() as api:
        job = api.add("ftjob-refused", rows)
        api.refuse[where] = (409, "conflict")
        async with trainer(settings(tmp_path, api.url)) as (running, _):
            await until(lambda: job.status == "failed")
            assert not running.done()
    assert job.error is not None
    assert job.error["code"] == "training_failed"
    assert job.error["message"] == "the gateway answered 409: conflict"
    assert job.token == 1


async def test_a_heartbeat_that_overtakes_the_completion_does_not_undo_it(tmp_path: Path, rows: bytes) -> None:
    """The job is over by this trainer's own word, whose answer is still on its way."""
    async with FakeTrainingApi(hold="complete") as api:
        job = api.add("ftjob-overtaken", rows)
        async with trainer(settings(tmp_path, api.url)):
            await until(lambda: api.requests["POST complete"], seconds=60)
            told = api.requests["POST heartbeat"]
            api.refuse["POST heartbeat"] = (409, "job_finished")
            await until(lambda: api.requests["POST heartbeat"] > told, seconds=20)
            await asyncio.sleep(0.2)  # in which a trainer that believed it would have gone
            api.hold = ""
            await until(lambda: job.status == "succeeded", seconds=20)
    assert job.completion is not None


async def test_a_failure_that_cannot_be_told_does_not_end_the_trainer(tmp_path: Path, rows: bytes) -> None:
    """The lease runs out, and the attempt counts."""
    async with FakeTrainingApi() as api:
        job = api.add("ftjob-untold", b"")
        api.refuse["POST fail"] = (400, "invalid_value")
        async with trainer(settings(tmp_path, api.url)) as (running, _):
            await until(lambda: job.token == 2, seconds=20)
            assert not running.done()
    assert job.spec["attempt"] >= 2


async def test_a_gateway_that_is_away_for_a_lease_stops_the_training_and_is_given_the_job(
    tmp_path: Path, rows: bytes
) -> None:
    """As far as it can be: the checkpoint is saved here, and whoever claims the job again goes on from it."""
    async with FakeTrainingApi(lease_seconds=0.6, heartbeat_seconds=0.1) as api:
        job = api.add("ftjob-silent", rows)
        async with trainer(settings(tmp_path, api.url, steps=5000)):
            await until(lambda: steps_of(job), seconds=30)
            api.away = 10**6
            await until(lambda: api.requests["POST release"], seconds=30)
            checkpoints = tmp_path / "one" / "ftjob-silent" / "training" / "checkpoints"
            reached = max(int(path.name.partition("-")[2]) for path in checkpoints.iterdir())
            assert reached >= max(steps_of(job))
            assert job.status == "running"
            api.away, api.lease_seconds = 0, 60.0
            await until(lambda: job.token == 2 and steps_of(job)[-1] > reached, seconds=30)
    assert steps_of(job) == sorted(set(steps_of(job)))
    assert job.status == "queued"
