"""Jobs that ended here while their provider may work on: each is stopped there, by one trainer, whoever ended it."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import httpx2
import pytest

from app.storage.administration import tenants
from app.storage.administration.change import changing
from app.storage.tuning.sweeper import Sweeper
from tests.support.training_app import TrainingApp

_numbers = itertools.count()
JOBS = "/v1/fine_tuning/jobs"
KEY = "what-the-trainer-finds-it-by"


@pytest.fixture
async def acme(app: TrainingApp) -> httpx2.AsyncClient:
    """A tenant of the test's own, with a route to a provider's model."""
    return await app.tenant_at_provider(f"stop{next(_numbers)}")


async def begun(app: TrainingApp, client: httpx2.AsyncClient) -> tuple[dict[str, Any], httpx2.AsyncClient]:
    """A job that its trainer has begun at the provider, and that trainer under its token."""
    job = await app.job(client, model="theirs")
    trainer = app.trainer()
    claimed = await app.claim(trainer, providers=[app.provider])
    assert claimed is not None
    trainer.headers["x-fencing-token"] = str(claimed["lease"]["token"])
    for told in ({"provider_job": KEY}, {}):
        answer = await trainer.post(f"{path(job)}/heartbeat", json={"stage": "train", **told})
        assert answer.status_code == 200
    return job, trainer


async def asked(app: TrainingApp, name: str = "one", *providers: str) -> dict[str, Any] | None:
    """What a trainer is given to stop."""
    body = {"trainer": name, "providers": providers or [app.provider]}
    answer = await app.trainer().post("/training/v1/stops/claim", json=body)
    assert answer.status_code in (200, 204), answer.text
    return answer.json() if answer.status_code == 200 else None


async def stopped(app: TrainingApp, job: dict[str, Any], token: int) -> httpx2.Response:
    """Say that the job is stopped, under this token."""
    return await app.trainer().post(f"{path(job)}/stopped", headers={"x-fencing-token": str(token)})


def path(job: dict[str, Any]) -> str:
    """Where trainers speak of the job."""
    return f"/training/v1/jobs/{job['id']}"


async def test_a_paused_job_that_is_cancelled_is_stopped_by_one_trainer(
    app: TrainingApp, acme: httpx2.AsyncClient
) -> None:
    """Of ten that ask at once one gets it, none of another provider; its tenant sees the cancellation throughout."""
    job, trainer = await begun(app, acme)
    await acme.post(f"{JOBS}/{job['id']}/pause")
    assert (await trainer.post(f"{path(job)}/release", json={})).status_code == 204
    assert await asked(app) is None
    cancelled = (await acme.post(f"{JOBS}/{job['id']}/cancel")).json()
    assert await asked(app, "other", "elsewhere") is None
    answers = await asyncio.gather(*(asked(app, f"trainer-{number}") for number in range(10)))
    (stop,) = [answer for answer in answers if answer is not None]
    lease = {"token": 2, "expires_in_seconds": 60.0, "heartbeat_seconds": 15.0}
    assert stop == {"job": job["id"], "provider": app.provider, "provider_job": KEY, "lease": lease}
    for _ in range(2):
        assert (await stopped(app, job, 2)).status_code == 204
    app.clock.now += 61
    assert await asked(app) is None
    assert (await acme.get(f"{JOBS}/{job['id']}")).json() == cancelled
    log = (await acme.get(f"{JOBS}/{job['id']}/events")).json()["data"]
    assert [event["message"] for event in log[:2]] == [
        "The job has been stopped at the provider",
        "The job has been cancelled",
    ]


async def test_a_running_job_is_its_own_trainers_to_stop_first(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """It hears of the cancellation and has its lease's time to say that it is done; then nobody is asked."""
    job, trainer = await begun(app, acme)
    await acme.post(f"{JOBS}/{job['id']}/cancel")
    heard = await trainer.post(f"{path(job)}/heartbeat", json={"stage": "train"})
    assert heard.json()["command"] == "cancel"
    assert await asked(app) is None
    assert (await trainer.post(f"{path(job)}/stopped")).status_code == 204
    app.clock.now += 61
    assert await asked(app) is None


async def test_a_stop_whose_trainer_is_lost_is_offered_again(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """To another, when the lease has run out; who had it before is fenced off."""
    job, _ = await begun(app, acme)
    await acme.post(f"{JOBS}/{job['id']}/cancel")
    app.clock.now += 61
    for token in (2, 3):
        stop = await asked(app, f"trainer-{token}")
        assert stop is not None
        assert stop["lease"]["token"] == token
        assert await asked(app) is None
        app.clock.now += 61
    answer = await stopped(app, job, 2)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "lease_lost")
    assert (await stopped(app, job, 3)).status_code == 204


@pytest.mark.parametrize("ended", ["failed", "lost", "deleted"])
async def test_whoever_ended_it_it_is_stopped(app: TrainingApp, acme: httpx2.AsyncClient, ended: str) -> None:
    """Failed by its trainer, given up because its trainers were lost, or gone with its tenant."""
    job, trainer = await begun(app, acme)
    if ended == "failed":
        failure = {"code": "training_failed", "message": "The provider does not answer."}
        assert (await trainer.post(f"{path(job)}/fail", json=failure)).status_code == 204
    if ended == "lost":
        for _ in range(2):
            app.clock.now += 61
            assert await app.claim(app.trainer(), providers=[app.provider]) is not None
        app.clock.now += 122
    if ended == "deleted":
        async with changing(app.engine) as change:
            await tenants.delete(change, job["organization_id"])
    await Sweeper(app.engine, app.services.objects, app.services.terms, clock=app.clock).sweep()
    stop = await asked(app)
    assert stop is not None
    assert (stop["job"], stop["provider_job"]) == (job["id"], KEY)


async def test_what_runs_nowhere_is_not_stopped(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """Jobs that never began there, and those that succeeded; an open one is nobody's to stop, an unknown one is 404."""
    never = await app.job(acme, model="theirs")
    await acme.post(f"{JOBS}/{never['id']}/cancel")
    job, trainer = await begun(app, acme)
    answer = await trainer.post(f"{path(job)}/stopped")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    done = {"provider_model": "ft:gpt:made", "trained_tokens": 7}
    assert (await trainer.post(f"{path(job)}/complete", json=done)).status_code == 200
    app.clock.now += 61
    assert await asked(app) is None
    assert (await stopped(app, {"id": "ftjob-nobody"}, 1)).status_code == 404


async def test_stops_are_for_trainers_alone(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """A tenant's key is not taken, nor none; an unknown field is refused by name."""
    body = {"trainer": "one", "providers": [app.provider]}
    for client in (acme, app.client(None)):
        assert (await client.post("/training/v1/stops/claim", json=body)).status_code == 401
        sent = await client.post("/training/v1/jobs/ftjob-1/stopped", headers={"x-fencing-token": "1"})
        assert sent.status_code == 401
    refused = await app.trainer().post("/training/v1/stops/claim", json=body | {"bases": []})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "bases")
