"""A provider's job that does not go as it should, from the gateway's own queue to a provider over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from sqlalchemy import select

from adapters.gateway import TrainingApi
from adapters.worker.lease import Sleep
from adapters.worker.loop import Worker
from adapters.worker.settings import TrainerSettings
from app.storage.tables import fine_tuning_jobs as jobs
from tests.support.training_app import TRAINER_SECRET
from tests.support.training_data import BASE
from tests.training_api.conftest import engine
from tests.training_api.test_provider_jobs import JOBS, There, app, database_url, polled, rows, there

__all__ = ["app", "database_url", "engine", "rows", "there"]  # fixtures
STATE, FIND = "GET /v1/fine_tuning/jobs/ftjob-1", "GET /v1/fine_tuning/jobs"


class Server(httpx2.ASGITransport):
    """A gateway that, like any behind a socket, ends what it has begun when its caller hangs up."""

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        self._begun: set[asyncio.Task[httpx2.Response]] = set()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer."""
        task = asyncio.create_task(super().handle_async_request(request))
        self._begun.add(task)
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        """Wait for what has begun."""
        await asyncio.gather(*self._begun, return_exceptions=True)


async def briefly(_: float) -> None:
    """Sleep for a moment only."""
    await asyncio.sleep(0.01)


@asynccontextmanager
async def trainer(there: There, sleep: Sleep = briefly, **changes: Any) -> AsyncIterator[None]:
    """A trainer whose pauses are short; leaving the block stops it politely."""
    settings = TrainerSettings.model_validate(
        {
            "gateway": "http://gateway",
            "name": "one",
            "work": there.folder / "one",
            "bases": {"another": {"path": BASE}},
            "providers": {there.app.provider: {"base_url": there.provider.url, "key_env": "KEY"}},
            "poll_seconds": 0,
        }
        | changes
    )
    stop, headers = asyncio.Event(), {"authorization": f"Bearer {TRAINER_SECRET}"}

    transport = Server(there.app.whole)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway", headers=headers) as client:
        running = asyncio.create_task(Worker(TrainingApi(client, sleep=sleep), settings, sleep=sleep).run(stop))
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(running, return_exceptions=True)


async def started(there: There, rows: bytes) -> str:
    """A job that runs at the provider for ever."""
    there.provider.polls_until_done = 10**9
    job = await there.job(rows)
    async with trainer(there):
        await polled(lambda: there.provider.requests[STATE])
    return job


@pytest.mark.parametrize("step", ["POST /v1/files", "POST /v1/fine_tuning/jobs", STATE])
async def test_a_provider_that_is_away_for_long_is_asked_again(there: There, rows: bytes, step: str) -> None:
    """Whatever it is in the middle of: the job is not failed while what it does has been paid for."""
    there.provider.fail(step, 20)
    job = await there.job(rows)
    async with trainer(there):
        ended = await there.until(job, "succeeded", "failed")
    assert (ended["status"], ended["error"]) == ("succeeded", None)
    assert (len(there.provider.files), len(there.provider.jobs)) == (1, 1)


async def test_a_trainer_that_stops_while_the_provider_is_away_gives_the_job_back(there: There, rows: bytes) -> None:
    """Another takes it over and buys nothing a second time."""
    there.provider.fail(STATE, 10**6)
    job = await there.job(rows)
    async with trainer(there):
        await polled(lambda: there.provider.requests[STATE] > 10)
        assert (await there.see(job))["status"] == "running"
    assert (await there.see(job))["status"] == "queued"
    there.provider.failures.clear()
    async with trainer(there, name="two", work=there.folder / "two"):
        assert (await there.until(job, "succeeded", "failed"))["status"] == "succeeded"
    assert len(there.provider.jobs) == 1


@pytest.mark.parametrize("pause", [True, False], ids=["paused", "queued"])
async def test_a_job_that_is_cancelled_while_it_rests_is_cancelled_there(
    there: There, rows: bytes, *, pause: bool
) -> None:
    """By any trainer, without the disk of the one that followed it; while the provider is away it is not forgotten."""
    job = await started(there, rows)
    if pause:
        await there.client.post(f"{JOBS}/{job}/pause")
    assert (await there.see(job))["status"] == ("paused" if pause else "queued")
    await there.client.post(f"{JOBS}/{job}/cancel")
    there.provider.fail(FIND, 3)
    async with trainer(there, name="two", work=there.folder / "two"):
        await polled(lambda: (FIND, "fail") not in there.provider.failures)
    assert there.provider.jobs["ftjob-1"]["status"] == "running"
    there.app.clock.now += 3
    async with trainer(there, name="two", work=there.folder / "two"):
        await polled(lambda: there.provider.jobs["ftjob-1"]["status"] == "cancelled")
    folder = there.folder / "one" / job
    assert folder.exists()
    async with trainer(there):
        await polled(lambda: not folder.exists())
    assert there.provider.requests["POST /v1/fine_tuning/jobs/ftjob-1/cancel"] == 1


async def test_a_job_whose_start_was_not_answered_is_found_and_cancelled(there: There, rows: bytes) -> None:
    """The tenant cancels while nobody knows whether the provider has started it: it had, and is stopped, once."""
    there.provider.polls_until_done = 10**9
    there.provider.lose_answer("POST /v1/fine_tuning/jobs")
    job = await there.job(rows)
    async with trainer(there):
        await polled(lambda: there.provider.jobs)
        await there.client.post(f"{JOBS}/{job}/cancel")
        await polled(lambda: there.provider.jobs["ftjob-1"]["status"] == "cancelled")
        await polled(lambda: not (there.folder / "one" / job).exists())
    there.app.clock.now += 3
    finds = there.provider.requests[FIND]
    async with trainer(there):
        await there.app.trainer().post("/training/v1/stops/claim", json={"trainer": "x", "providers": ["x"]})
    assert there.provider.requests[FIND] == finds


async def test_a_job_that_another_follows_is_not_cancelled_there(there: There, rows: bytes) -> None:
    """A trainer that comes back to find its job taken removes its folder, and nothing else."""
    job = await started(there, rows)
    async with trainer(there, name="two", work=there.folder / "two"):
        await polled((there.folder / "two" / job).exists)
        async with trainer(there):
            await polled(lambda: not (there.folder / "one" / job).exists())
    assert there.provider.jobs["ftjob-1"]["status"] == "running"


async def test_what_the_provider_has_not_begun_is_not_told_as_training(
    there: There, rows: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenant is charged by the stage: it is `train` once the provider says that it works."""
    job = await there.job(rows)
    there.provider.polls_until_done = 10**9
    with monkeypatch.context() as patch:
        patch.setattr(there.provider, "_advance", lambda _: None)
        async with trainer(there):
            await polled(lambda: there.provider.requests[STATE] > 5)
            for _ in range(20):
                assert (await row(there, job))["stage"] == "prepare"
                await asyncio.sleep(0.01)
    async with trainer(there), asyncio.timeout(30):
        while (await row(there, job))["stage"] != "train":
            await asyncio.sleep(0.02)


async def test_the_gateway_knows_how_the_job_is_found_before_it_is_started(there: There, rows: bytes) -> None:
    """Not with the next heartbeat: a trainer that is lost in between leaves nothing running that nobody knows."""
    job = await there.job(rows)
    there.provider.hold("POST /v1/fine_tuning/jobs")

    async def sleep(_: float) -> None:
        await asyncio.Event().wait()

    async with trainer(there, sleep):
        await polled(lambda: there.provider.requests["POST /v1/fine_tuning/jobs"])
        assert (await row(there, job))["provider_job"]


async def row(there: There, job: str) -> Mapping[str, Any]:
    """The job as the gateway keeps it."""
    async with there.app.engine.connect() as connection:
        found = await connection.execute(select(jobs).where(jobs.c.id == job))
        return dict(found.mappings().one())


async def test_a_trainer_without_providers_is_asked_to_stop_nothing(there: There, rows: bytes) -> None:
    """It could not."""
    job = await started(there, rows)
    await there.client.post(f"{JOBS}/{job}/cancel")
    async with trainer(there, providers={}):
        await polled(lambda: not (there.folder / "one" / job).exists())
    assert there.provider.jobs["ftjob-1"]["status"] == "running"
