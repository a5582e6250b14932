"""What the metrics know of trainers and jobs: waits, stages, heartbeats, lost leases, ends."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.observability.metrics import Metrics
from app.storage.administration import tenants
from app.storage.administration.change import changing
from app.storage.database import database
from app.storage.tuning.leases import Expired
from app.storage.tuning.sweeper import Sweeper
from tests.observability.test_metrics import series, value
from tests.support.training_app import TrainingApp, training_app
from tests.training_api.test_leases import BEAT, JOBS, fence

_numbers = itertools.count()


class Watched:
    """An application whose trainers are counted."""

    def __init__(self, app: TrainingApp, tenant: httpx2.AsyncClient) -> None:
        self.app = app
        self.metrics = Metrics()
        self.trainer = app.trainer(metrics=self.metrics.training)
        self.tenant = tenant

    def value(self, name: str, **labels: str) -> float | None:
        """One series."""
        return value(self.metrics, f"gateway_training_{name}", **labels)

    def stages(self) -> dict[str, float]:
        """The seconds of every stage that was timed."""
        name = "gateway_training_stage_duration_seconds"
        counted = {
            dict(labels)["stage"]
            for (found, labels), n in series(self.metrics).items()
            if found == f"{name}_count" and n
        }
        return {stage: value(self.metrics, f"{name}_sum", stage=stage) or 0.0 for stage in counted}

    async def after(self, seconds: float, claimed: dict[str, Any] | None, tail: str, **body: Any) -> httpx2.Response:
        """Let time pass, then have the trainer say this."""
        assert claimed is not None
        self.app.clock.now += seconds
        path = f"/training/v1/jobs/{claimed['job']['id']}/{tail}"
        return await self.trainer.post(path, json=body, headers=fence(claimed))

    async def sweep(self) -> Expired:
        """What one sweep has found."""
        found: list[Expired] = []
        services = self.app.services
        await Sweeper(
            self.app.engine, services.objects, services.terms, clock=self.app.clock, on_expired=found.append
        ).sweep()
        return found[0]


@pytest.fixture
async def watched(app: TrainingApp) -> Watched:
    """A tenant of the test's own, and metrics."""
    return Watched(app, await app.tenant(f"counted{next(_numbers)}"))


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[Watched]:
    """The same on a database of the test's own: a sweep finds the jobs of all tests."""
    async with database(f"sqlite:///{tmp_path / 'alone.sqlite3'}") as engine:
        app = training_app(engine, tmp_path / "objects")
        yield Watched(app, await app.tenant("acme"))
        await app.close()


async def test_each_stage_is_timed_when_the_job_leaves_it(watched: Watched) -> None:
    """From creation to claim, then from the first heartbeat of a stage to the first of the next."""
    await watched.app.job(watched.tenant)
    watched.app.clock.now += 30
    claimed = await watched.app.claim(watched.trainer)
    await watched.after(2, claimed, "heartbeat", **BEAT | {"stage": "prepare"})
    await watched.after(15, claimed, "heartbeat", **BEAT | {"stage": "prepare"})
    assert watched.stages() == {"queued": 30.0}
    await watched.after(5, claimed, "heartbeat", **BEAT)
    await watched.after(100, claimed, "heartbeat", **BEAT | {"stage": "servable"})
    assert watched.stages() == {"queued": 30.0, "prepare": 20.0, "train": 100.0}
    assert watched.value("heartbeats_total", answer="continue") == 4


async def test_a_job_that_was_given_back_waits_anew(watched: Watched) -> None:
    """A wait is counted from the release, not from the job's creation, and a stage that broke off is not timed."""
    await watched.app.job(watched.tenant)
    claimed = await watched.app.claim(watched.trainer)
    await watched.after(500, claimed, "heartbeat", **BEAT)
    await watched.after(500, claimed, "release")
    watched.app.clock.now += 7
    assert await watched.app.claim(watched.trainer, "two") is not None
    assert watched.stages() == {"queued": 7.0}
    assert watched.value("leases_lost_total") == 0


async def test_a_resumed_job_waits_from_its_resumption(watched: Watched) -> None:
    """The days that a tenant let it rest are nobody's wait."""
    job = await watched.app.job(watched.tenant)
    await watched.tenant.post(f"{JOBS}/{job['id']}/pause")
    watched.app.clock.now += 500_000
    await watched.tenant.post(f"{JOBS}/{job['id']}/resume")
    watched.app.clock.now += 3
    assert await watched.app.claim(watched.trainer) is not None
    assert watched.stages() == {"queued": 3.0}


async def test_a_lost_trainer_is_counted_when_another_takes_over(watched: Watched) -> None:
    """Once, also before its first heartbeat; its own heartbeat is refused then."""
    await watched.app.job(watched.tenant)
    first = await watched.app.claim(watched.trainer, "one")
    watched.app.clock.now += 61
    second = await watched.app.claim(watched.trainer, "two")
    assert watched.value("leases_lost_total") == 1
    assert (await watched.after(1, first, "heartbeat", **BEAT)).status_code == 409
    assert watched.value("heartbeats_total", answer="refused") == 1
    await watched.after(1, second, "heartbeat", **BEAT)
    watched.app.clock.now += 61
    assert await watched.app.claim(watched.trainer, "three") is not None
    assert watched.value("leases_lost_total") == 2
    assert watched.stages() == {"queued": 0.0}


async def test_ends_are_counted_once_with_their_reason(watched: Watched) -> None:
    """A failure that is told twice is one; a cancelled job tells its trainer to stop."""
    await watched.app.job(watched.tenant)
    claimed = await watched.app.claim(watched.trainer)
    for _ in range(2):
        await watched.after(0, claimed, "fail", code="training_diverged", message="loss is not a number")
    assert watched.value("jobs_ended_total", outcome="failed", reason="training_diverged") == 1
    tenant = watched.app.client(watched.tenant.headers["authorization"][7:], metrics=watched.metrics.training)
    job = await watched.app.job(watched.tenant)
    claimed = await watched.app.claim(watched.trainer)
    await tenant.post(f"{JOBS}/{job['id']}/cancel")
    await watched.after(0, claimed, "heartbeat", **BEAT)
    assert watched.value("jobs_ended_total", outcome="cancelled", reason="") == 1
    assert watched.value("heartbeats_total", answer="cancel") == 1


async def test_a_sweep_says_what_it_has_ended(alone: Watched) -> None:
    """One given up is a failure and a lost lease, one that shall pause a lost lease, one of a deleted tenant an end."""
    watched = alone
    await watched.app.job(watched.tenant)
    for number in range(3):
        assert await watched.app.claim(watched.trainer, f"t{number}") is not None
        watched.app.clock.now += 61
    watched.app.clock.now += 60
    assert await watched.sweep() == Expired(failed=1, cancelled=0, lost=1)
    pausing = await watched.app.job(watched.tenant)
    await watched.app.claim(watched.trainer)
    await watched.tenant.post(f"{JOBS}/{pausing['id']}/pause")
    watched.app.clock.now += 61
    assert await watched.sweep() == Expired(failed=0, cancelled=0, lost=1)
    async with changing(watched.app.engine) as change:
        await tenants.delete(change, pausing["organization_id"])
    assert await watched.sweep() == Expired(failed=0, cancelled=1, lost=0)
