"""A job on a provider's model, whole: the gateway's queue, the real trainer, a provider over HTTP with its failures."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from adapters.gateway import TrainingApi
from adapters.worker.loop import Worker
from adapters.worker.settings import TrainerSettings
from app.storage.tuning.leases import Terms
from app.types import ProviderTarget
from tests.support.fake_finetuning import FakeFineTuning
from tests.support.training_app import TRAINER_SECRET, TrainingApp, training_app, uploaded
from tests.support.training_data import BASE, chat_file

_numbers = itertools.count()
JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One kind is enough: what differs between databases is tested in `test_leases`."""
    return f"sqlite:///{tmp_path / 'provider.sqlite3'}"


@pytest.fixture
async def app(engine: Any, tmp_path: Path) -> AsyncIterator[TrainingApp]:
    """An application with short leases, so that heartbeats come often."""
    made = training_app(engine, tmp_path / "objects", terms=Terms(2.0, 3))
    yield made
    await made.close()


@dataclass
class There:
    """A tenant with a route to a provider's model, and the provider."""

    app: TrainingApp
    client: httpx2.AsyncClient
    tenant: str
    provider: FakeFineTuning
    folder: Path

    async def job(self, rows: bytes, **fields: Any) -> str:
        """A new job's id."""
        made = await self.app.job(self.client, await uploaded(self.client, rows), model="theirs", **fields)
        return str(made["id"])

    async def see(self, job: str) -> dict[str, Any]:
        """The job as its tenant sees it."""
        seen: dict[str, Any] = (await self.client.get(f"{JOBS}/{job}")).json()
        return seen

    async def until(self, job: str, *statuses: str) -> dict[str, Any]:
        """Poll until the job is there."""
        async with asyncio.timeout(30):
            while (seen := await self.see(job))["status"] not in statuses:
                await asyncio.sleep(0.02)
        return seen

    @asynccontextmanager
    async def trainer(self, name: str = "one") -> AsyncIterator[asyncio.Task[None]]:
        """A trainer in this process; leaving the block stops it politely."""
        settings = TrainerSettings.model_validate(
            {
                "gateway": "http://gateway",
                "name": name,
                "work": self.folder / name,
                "bases": {"another": {"path": BASE}},
                "providers": {
                    self.app.provider: {"base_url": self.provider.url, "key_env": "KEY", "poll_seconds": 0.02}
                },
                "poll_seconds": 0,
            }
        )
        stop = asyncio.Event()
        transport = httpx2.ASGITransport(self.app.whole)
        headers = {"authorization": f"Bearer {TRAINER_SECRET}"}
        async with httpx2.AsyncClient(transport=transport, base_url="http://gateway", headers=headers) as client:
            running = asyncio.create_task(Worker(TrainingApi(client), settings).run(stop))
            try:
                yield running
            finally:
                stop.set()
                await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def there(app: TrainingApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[There]:
    """A provider over HTTP."""
    monkeypatch.setenv("KEY", "sk-test")
    tenant = f"prov{next(_numbers)}"
    client = await app.tenant_at_provider(tenant, "gpt-4o-mini")
    async with FakeFineTuning() as provider:
        yield There(app, client, tenant, provider, tmp_path)


@pytest.fixture
def rows(tmp_path: Path) -> bytes:
    """Twelve good conversations."""
    return chat_file(tmp_path / "rows.jsonl", count=12).read_bytes()


async def polled(condition: Callable[[], Any]) -> None:
    """Poll until something is so."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_job_there_ends_as_a_route_of_the_tenant(there: There, rows: bytes) -> None:
    """Uploaded, started with what was asked, followed, and its model named by the tenant's own route."""
    chosen = {"n_epochs": 2, "learning_rate_multiplier": 0.5}
    job = await there.job(rows, suffix="desk", seed=5, hyperparameters=chosen)
    async with there.trainer():
        ended = await there.until(job, "succeeded", "failed")
    assert ended["error"] is None
    (made,) = there.provider.jobs.values()
    asked = made["method"]["supervised"]["hyperparameters"]
    assert (made["model"], made["suffix"], made["seed"]) == ("gpt-4o-mini", "desk", 5)
    assert asked == {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": 0.5}
    route = there.app.policy.current().route(there.tenant, ended["fine_tuned_model"])
    assert route is not None
    assert route.variants[0].target == ProviderTarget(there.app.provider, made["fine_tuned_model"])
    assert ended["trained_tokens"] == made["trained_tokens"]
    log = (await there.client.get(f"{JOBS}/{job}/events", params={"limit": 100})).json()["data"]
    assert any(event["type"] == "metrics" and "train_loss" in event["data"] for event in log)
    assert len({event["id"] for event in log}) == len(log)


async def test_lost_answers_upload_and_start_nothing_twice(there: There, rows: bytes) -> None:
    """The upload's and the start's answers are lost: one file and one job are there, and the job succeeds."""
    there.provider.lose_answer("POST /v1/files")
    there.provider.lose_answer("POST /v1/fine_tuning/jobs")
    job = await there.job(rows)
    async with there.trainer():
        assert (await there.until(job, "succeeded", "failed"))["status"] == "succeeded"
    assert (len(there.provider.files), len(there.provider.jobs)) == (1, 1)


async def test_a_crash_of_ours_between_upload_and_start_repeats_nothing(there: There, rows: bytes) -> None:
    """The first trainer dies after the upload; another, without its disk, takes over: one file, one job."""
    there.provider.hold("POST /v1/fine_tuning/jobs")
    job = await there.job(rows)
    async with there.trainer("first") as running:
        await polled(lambda: there.provider.requests["POST /v1/fine_tuning/jobs"])
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert (len(there.provider.files), len(there.provider.jobs)) == (1, 0)
    there.app.clock.now += 3
    async with there.trainer("second"):
        assert (await there.until(job, "succeeded", "failed"))["status"] == "succeeded"
    assert (len(there.provider.files), len(there.provider.jobs)) == (1, 1)


async def test_a_file_that_the_provider_refuses_fails_in_its_words(there: There) -> None:
    """The provider's validation ends the job; the tenant reads the provider's reason."""
    job = await there.job(b'{"messages": []}\n' * 12)
    async with there.trainer():
        failed = await there.until(job, "succeeded", "failed")
    assert failed["error"]["code"] == "provider_job_failed"
    assert "line 1 is not a chat example" in failed["error"]["message"]
    assert failed["fine_tuned_model"] is None


async def test_a_cancellation_is_passed_on(there: There, rows: bytes) -> None:
    """The tenant cancels here: the job there is cancelled too."""
    there.provider.polls_until_done = 10**9
    job = await there.job(rows)
    async with there.trainer():
        await polled(lambda: there.provider.jobs)
        await there.client.post(f"{JOBS}/{job}/cancel")
        await polled(lambda: next(iter(there.provider.jobs.values()))["status"] == "cancelled")
    assert (await there.see(job))["status"] == "cancelled"


async def test_a_provider_that_this_trainer_does_not_know_is_said(there: There, rows: bytes) -> None:
    """A trainer without providers is never offered such a job."""
    await there.job(rows)
    claimed = await there.app.claim(there.app.trainer(), providers=["another"])
    assert claimed is None
