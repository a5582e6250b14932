"""What a job that ended early is charged: the furthest it ever came to, and never nothing once training had begun."""

from __future__ import annotations

import itertools
from typing import Any

import httpx2
import pytest

from app.storage.tuning import leases
from app.storage.tuning.progress import BEGUN, Progress, told_by
from app.storage.tuning.sweeper import Sweeper
from tests.support.training_app import TrainingApp

_numbers = itertools.count()
JOBS = "/v1/fine_tuning/jobs"
ESTIMATE = 300  # 400 bytes, three epochs


@pytest.fixture
async def acme(app: TrainingApp) -> httpx2.AsyncClient:
    """A tenant of the test's own, with a route to a provider's model."""
    return await app.tenant_at_provider(f"charge{next(_numbers)}")


async def taken(app: TrainingApp) -> tuple[str, httpx2.AsyncClient]:
    """The path of a job that a trainer of both kinds claims, and that trainer under its token."""
    trainer = app.trainer()
    claimed = await app.claim(trainer, providers=[app.provider])
    assert claimed is not None
    trainer.headers["x-fencing-token"] = str(claimed["lease"]["token"])
    return f"/training/v1/jobs/{claimed['job']['id']}", trainer


async def say(app: TrainingApp, path: str, trainer: httpx2.AsyncClient, *beats: dict[str, Any]) -> None:
    """Send these heartbeats, one after another."""
    for beat in beats:
        assert (await trainer.post(f"{path}/heartbeat", json=beat)).status_code == 200


async def charge(app: TrainingApp, job: dict[str, Any]) -> int:
    """What an ended job is charged."""
    async with app.services.read() as connection:
        return (await leases.find(connection, job["id"])).charged_tokens


async def cancelled(app: TrainingApp, client: httpx2.AsyncClient, job: dict[str, Any]) -> int:
    """What the job is charged when it is cancelled now."""
    assert (await client.post(f"{JOBS}/{job['id']}/cancel")).status_code == 200
    return await charge(app, job)


@pytest.mark.parametrize(
    ("model", "beats", "used"),
    [
        (None, [], 0),
        (None, [{"stage": "prepare"}], 0),
        (None, [{"stage": "train"}], 0),
        (None, [{"stage": "train", "step": 0, "total_steps": 10}], 0),
        (None, [{"stage": "train", "step": 4, "total_steps": 10}, {"stage": "train"}], 120),
        (
            None,
            [{"stage": "train", "step": 4, "total_steps": 10}, {"stage": "train", "step": 1, "total_steps": 10}],
            120,
        ),
        (None, [{"stage": "train", "step": 4, "total_steps": 10}, {"stage": "register"}], 120),
        (None, [{"stage": "train", "step": 7}], ESTIMATE),
        (None, [{"stage": "register"}], ESTIMATE),
        (None, [{"stage": "train", "step": 20, "total_steps": 10}], ESTIMATE),
        ("theirs", [{"stage": "prepare"}], 0),
        ("theirs", [{"stage": "train"}] * 2, ESTIMATE),
        ("theirs", [{"stage": "train"}, {"stage": "train", "step": 1, "total_steps": 10}], 30),
        ("theirs", [{"stage": "train", "step": 1, "total_steps": 10}, {"stage": "train"}], 30),
    ],
    ids=str,
)
async def test_a_cancelled_job_is_charged_what_it_had_come_to(
    app: TrainingApp, acme: httpx2.AsyncClient, model: str | None, beats: list[dict[str, Any]], used: int
) -> None:
    """The largest share that was told; the estimate where it had begun and nobody told how far it was."""
    job = await app.job(acme, model=model or app.base)
    await say(app, *await taken(app), *beats)
    assert await cancelled(app, acme, job) == used


async def test_a_rest_takes_nothing_back(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """Paused at 40 %, resumed, claimed again by a trainer that knows no figures yet, cancelled: 40 % are charged."""
    job = await app.job(acme)
    path, trainer = await taken(app)
    await say(app, path, trainer, {"stage": "train", "step": 4, "total_steps": 10})
    await acme.post(f"{JOBS}/{job['id']}/pause")
    assert (await trainer.post(f"{path}/release", json={})).status_code == 204
    await acme.post(f"{JOBS}/{job['id']}/resume")
    await say(app, *await taken(app), {"stage": "prepare"}, {"stage": "train"})
    assert await cancelled(app, acme, job) == 120


async def test_the_log_counts_between_two_heartbeats(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """A job that is cancelled before its next heartbeat is charged by the figures of its log; messages say nothing."""
    for data, kind, used in (
        ({"step": 5, "total_steps": 10}, "metrics", 150),
        ({"step": 5}, "metrics", ESTIMATE),
        ({"step": "5", "total_steps": 10}, "metrics", 0),
        (None, "metrics", 0),
        ({"step": 5, "total_steps": 10}, "message", 0),
    ):
        job = await app.job(acme)
        path, trainer = await taken(app)
        event = {"id": "e1", "created_at": 1, "level": "info", "type": kind, "message": "", "data": data}
        assert (await trainer.post(f"{path}/events", json={"events": [event]})).status_code == 204
        assert await cancelled(app, acme, job) == used, data


async def test_a_failed_job_is_charged_the_same_way(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """By its trainer's word, or because its trainers were lost."""
    job = await app.job(acme, model="theirs")
    path, trainer = await taken(app)
    await say(app, path, trainer, {"stage": "train"})
    failure = {"code": "provider_job_failed", "message": "It ended."}
    assert (await trainer.post(f"{path}/fail", json=failure)).status_code == 204
    assert await charge(app, job) == ESTIMATE
    lost = await app.job(acme)
    for _ in range(3):
        await say(app, *await taken(app), {"stage": "train", "step": 2, "total_steps": 10})
        app.clock.now += 61
    app.clock.now += 61
    await Sweeper(app.engine, app.services.objects, app.services.terms, clock=app.clock).sweep()
    assert (await acme.get(f"{JOBS}/{lost['id']}")).json()["status"] == "failed"
    assert await charge(app, lost) == 60


def test_progress_goes_one_way() -> None:
    """Whatever is told in whatever order, the share of figures never falls, and nothing told is nothing done."""
    assert (Progress().share, BEGUN.share, Progress(1, 4).share, Progress(9, 4).share) == (0.0, 1.0, 0.25, 1.0)
    assert Progress(3, 4).and_then(Progress(1, 4)) == Progress(3, 4).and_then(Progress()) == Progress(3, 4)
    assert Progress(3, 4).and_then(BEGUN) == BEGUN.and_then(Progress(3, 4)) == Progress(3, 4)
    assert Progress(2).and_then(Progress(1)) == Progress(2)
    assert told_by({"step": True, "total_steps": -1}) == told_by({"step": 2**60}) == told_by(None) == Progress()
