"""Claims, heartbeats and the fence: whoever asks, when and how often, one trainer has a job and only it can write."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from typing import Any

import httpx2
import pytest

from app.storage.administration import tenants
from app.storage.administration.change import changing
from app.storage.tuning.sweeper import Sweeper
from tests.support.admin_app import ADMIN_KEY
from tests.support.training_app import TrainingApp, tar, uploaded

_numbers = itertools.count()
JOBS = "/v1/fine_tuning/jobs"
BEAT = {"stage": "train", "step": 4, "total_steps": 10, "seconds_left": 30}


@pytest.fixture
async def acme(app: TrainingApp) -> httpx2.AsyncClient:
    """A tenant of the test's own."""
    return await app.tenant(f"lease{next(_numbers)}")


def fence(claimed: dict[str, Any] | None) -> dict[str, str]:
    """The header of a claim's token."""
    assert claimed is not None
    return {"x-fencing-token": str(claimed["lease"]["token"])}


async def beat(app: TrainingApp, claimed: dict[str, Any] | None, **fields: Any) -> httpx2.Response:
    """A heartbeat under this claim."""
    assert claimed is not None
    path = f"/training/v1/jobs/{claimed['job']['id']}/heartbeat"
    return await app.trainer().post(path, json=BEAT | fields, headers=fence(claimed))


def code(answer: httpx2.Response) -> tuple[int, str]:
    """Status and code of a refusal."""
    return answer.status_code, answer.json()["error"]["code"]


async def test_twenty_trainers_at_once_get_one_job_once(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """Five rounds: one job, twenty claims at the same moment, exactly one answer is the job."""
    clients = [app.trainer() for _ in range(20)]
    for _ in range(5):
        job = await app.job(acme)
        answers = await asyncio.gather(*(app.claim(client, f"trainer-{n}") for n, client in enumerate(clients)))
        got = [answer for answer in answers if answer is not None]
        assert [answer["job"]["id"] for answer in got] == [job["id"]]
        assert got[0]["lease"]["token"] == 1
        await acme.post(f"{JOBS}/{job['id']}/cancel")


async def test_twenty_trainers_share_three_jobs(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """Each job goes to one of them, the oldest first."""
    jobs = []
    for _ in range(3):
        app.clock.now += 1
        jobs.append((await app.job(acme))["id"])
    answers = await asyncio.gather(*(app.claim(app.trainer(), f"trainer-{number}") for number in range(20)))
    assert sorted(answer["job"]["id"] for answer in answers if answer is not None) == sorted(jobs)


async def test_a_claim_says_all_that_a_trainer_needs(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """The page's object: job, files with their hashes, the lease in durations, no checkpoint yet."""
    validation = await uploaded(acme, b"v" * 10)
    job = await app.job(acme, suffix="Help Desk!", seed=3, validation_file=validation, recipe="fast")
    claimed = await app.claim(app.trainer())
    assert claimed is not None
    assert claimed["job"] == {
        "id": job["id"],
        "tenant": job["organization_id"],
        "name": "help-desk",
        "model": app.base,
        "provider": None,
        "suffix": "Help Desk!",
        "attempt": 1,
        "method": "supervised",
        "seed": 3,
        "recipe": "fast",
        "created_at": job["created_at"],
        "hyperparameters": job["hyperparameters"],
    }
    assert claimed["files"]["training"]["id"] == job["training_file"]
    assert claimed["files"]["validation"]["bytes"] == 10
    assert claimed["lease"] == {"token": 1, "expires_in_seconds": 60.0, "heartbeat_seconds": 15.0}
    assert claimed["checkpoint"] is None
    assert (await acme.get(f"{JOBS}/{job['id']}")).json()["status"] == "running"


async def test_an_expired_lease_goes_to_another_and_the_first_is_fenced_off(
    app: TrainingApp, acme: httpx2.AsyncClient
) -> None:
    """A trainer thought dead comes back: every one of its writes is 409 `lease_lost` and changes nothing."""
    job = await app.job(acme)
    first = await app.claim(app.trainer(), "one")
    app.clock.now += 59
    assert await app.claim(app.trainer(), "two") is None
    app.clock.now += 2
    second = await app.claim(app.trainer(), "two")
    assert second is not None
    assert (second["lease"]["token"], second["job"]["attempt"]) == (2, 2)
    before = (await acme.get(f"{JOBS}/{job['id']}/events")).json()
    stale = app.trainer()
    stale.headers.update(fence(first))
    path = f"/training/v1/jobs/{job['id']}"
    event = {"id": "e1", "created_at": 1, "level": "info", "type": "message", "message": "boo"}
    sha = (await app.services.objects.put(f"jobs/{job['id']}", _bytes(b"x"), max_bytes=10)).sha256
    for method, tail, body in (
        ("POST", "/heartbeat", BEAT),
        ("POST", "/events", {"events": [event]}),
        ("GET", f"/files/{job['training_file']}", None),
        ("PUT", f"/blobs/{sha}", None),
        ("GET", f"/blobs/{sha}", None),
        ("POST", "/checkpoints", {"step": 1, "blob": sha}),
        ("POST", "/complete", {"artifact": sha, "adapter_sha256": sha, "manifest": {}, "trained_tokens": 1}),
        ("POST", "/fail", {"code": "training_failed", "message": "boo"}),
        ("POST", "/release", {"reason": "boo"}),
    ):
        answer = await stale.request(method, path + tail, json=body)
        assert code(answer) == (409, "lease_lost"), tail
        assert answer.headers["x-should-retry"] == "false"
    assert (await acme.get(f"{JOBS}/{job['id']}/events")).json() == before
    assert (await acme.get(f"{JOBS}/{job['id']}")).json()["status"] == "running"
    assert (await beat(app, second)).status_code == 200


async def _bytes(content: bytes) -> Any:
    yield content


async def test_a_late_heartbeat_keeps_a_job_that_nobody_took(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """Late is not lost: the lease is whole again, and the job's estimate of its end is the trainer's."""
    job = await app.job(acme)
    claimed = await app.claim(app.trainer())
    app.clock.now += 100
    answer = await beat(app, claimed)
    assert answer.json() == {"lease": claimed["lease"] if claimed else None, "command": "continue"}
    assert (await acme.get(f"{JOBS}/{job['id']}")).json()["estimated_finish"] == int(app.clock.now) + 30
    assert await app.claim(app.trainer(), "two") is None


async def test_a_restarted_trainer_gets_its_job_again_at_once(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """Under the same name, before an older job of the queue, with a new token."""
    job = await app.job(acme)
    await app.claim(app.trainer(), "one")
    app.clock.now -= 10
    await app.job(acme)
    app.clock.now += 10
    again = await app.claim(app.trainer(), "one")
    assert again is not None
    assert (again["job"]["id"], again["lease"]["token"], again["job"]["attempt"]) == (job["id"], 2, 2)


async def test_a_job_that_kills_its_trainers_is_given_up(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """Three lost leases: nobody gets it again, and a lease later it has failed with `trainer_lost`, once."""
    job = await app.job(acme)
    for number in range(3):
        assert await app.claim(app.trainer(), f"trainer-{number}") is not None
        app.clock.now += 61
    assert await app.claim(app.trainer(), "trainer-4") is None
    sweeper = Sweeper(app.engine, app.services.objects, app.services.terms, clock=app.clock)
    await sweeper.sweep()
    assert (await acme.get(f"{JOBS}/{job['id']}")).json()["status"] == "running"
    app.clock.now += 60
    await asyncio.gather(*(sweeper.sweep() for _ in range(5)))
    failed = (await acme.get(f"{JOBS}/{job['id']}")).json()
    assert (failed["status"], failed["error"]["code"]) == ("failed", "trainer_lost")
    log = (await acme.get(f"{JOBS}/{job['id']}/events")).json()["data"]
    assert [event["level"] for event in log].count("error") == 1


async def test_a_cancelled_job_tells_its_trainer_to_stop(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """The next heartbeat answers `cancel`; anything else is 409 `job_finished`."""
    job = await app.job(acme)
    claimed = await app.claim(app.trainer())
    await acme.post(f"{JOBS}/{job['id']}/cancel")
    assert (await beat(app, claimed)).json()["command"] == "cancel"
    path = f"/training/v1/jobs/{job['id']}"
    answer = await app.trainer().post(f"{path}/events", json={"events": []}, headers=fence(claimed))
    assert code(answer) == (409, "job_finished")


async def test_a_running_job_pauses_through_its_trainer(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """The heartbeat answers `pause`, the release makes it `paused`, a resume gives it to the next as attempt 1."""
    job = await app.job(acme)
    claimed = await app.claim(app.trainer(), "one")
    assert (await acme.post(f"{JOBS}/{job['id']}/pause")).json()["status"] == "running"
    assert (await beat(app, claimed)).json()["command"] == "pause"
    assert await app.claim(app.trainer(), "one") is None
    path = f"/training/v1/jobs/{job['id']}/release"
    for _ in range(2):  # the answer may have been lost
        answer = await app.trainer().post(path, json={"reason": "paused"}, headers=fence(claimed))
        assert answer.status_code == 204
    assert (await acme.get(f"{JOBS}/{job['id']}")).json()["status"] == "paused"
    await acme.post(f"{JOBS}/{job['id']}/resume")
    again = await app.claim(app.trainer(), "two")
    assert again is not None
    assert again["job"]["attempt"] == 1


async def test_a_pause_can_be_taken_back_and_a_lost_trainer_cannot_hold_it_up(
    app: TrainingApp, acme: httpx2.AsyncClient
) -> None:
    """Resumed before the trainer heard of it, it goes on; with the lease run out, it is paused without the trainer."""
    job = await app.job(acme)
    claimed = await app.claim(app.trainer())
    await acme.post(f"{JOBS}/{job['id']}/pause")
    assert (await acme.post(f"{JOBS}/{job['id']}/resume")).json()["status"] == "running"
    assert (await beat(app, claimed)).json()["command"] == "continue"
    await acme.post(f"{JOBS}/{job['id']}/pause")
    app.clock.now += 61
    await Sweeper(app.engine, app.services.objects, app.services.terms, clock=app.clock).sweep()
    assert (await acme.get(f"{JOBS}/{job['id']}")).json()["status"] == "paused"
    assert code(await beat(app, claimed)) == (409, "lease_lost")
    other = await app.job(acme)
    await app.claim(app.trainer())
    app.clock.now += 61
    assert (await acme.post(f"{JOBS}/{other['id']}/pause")).json()["status"] == "paused"


async def test_a_failure_is_told_once_and_in_the_trainers_words(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """Error object, event and end; repeated, it is 204 again; a release of it is `job_finished`."""
    job = await app.job(acme)
    claimed = await app.claim(app.trainer())
    error = {"code": "invalid_training_file", "message": "line 3: no assistant message", "param": "training_file"}
    path = f"/training/v1/jobs/{job['id']}"
    for _ in range(2):
        answer = await app.trainer().post(f"{path}/fail", json=error, headers=fence(claimed))
        assert answer.status_code == 204
    failed = (await acme.get(f"{JOBS}/{job['id']}")).json()
    assert (failed["status"], failed["error"], failed["fine_tuned_model"]) == ("failed", error, None)
    answer = await app.trainer().post(f"{path}/release", json={}, headers=fence(claimed))
    assert code(answer) == (409, "job_finished")


async def test_a_released_job_is_not_released_by_a_stranger(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """Another token's release and another's failure are `lease_lost`."""
    job = await app.job(acme)
    await app.claim(app.trainer())
    for tail, body in (("release", {}), ("fail", {"code": "training_failed", "message": "m"})):
        answer = await app.trainer().post(
            f"/training/v1/jobs/{job['id']}/{tail}", json=body, headers={"x-fencing-token": "99"}
        )
        assert code(answer) == (409, "lease_lost")


async def test_a_deleted_tenants_job_is_claimed_by_nobody(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """It is offered to nobody, the sweep ends it, and the tenant's files go with their bytes."""
    job = await app.job(acme)
    async with changing(app.engine) as change:
        await tenants.delete(change, job["organization_id"])
    assert await app.claim(app.trainer()) is None
    sweeper = Sweeper(app.engine, app.services.objects, app.services.terms, clock=app.clock)
    await sweeper.sweep()
    assert (await acme.get(f"{JOBS}/{job['id']}")).json()["status"] == "cancelled"
    assert (await acme.get("/v1/files")).json()["data"] == []
    assert not list((app.folder / "files").iterdir())


async def test_a_waiting_claim_gets_a_job_that_comes_later(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """The long poll ends with the job; without one it ends with 204."""
    waiting = asyncio.create_task(app.claim(app.trainer(), wait_seconds=20))
    await asyncio.sleep(0)
    job = await app.job(acme)
    claimed = await waiting
    assert claimed is not None
    assert claimed["job"]["id"] == job["id"]
    assert await app.claim(app.trainer(), "two", wait_seconds=0.05) is None


async def test_only_the_trainer_secret_opens_the_training_api(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """No key, a tenant's key, the admin's key, and an empty secret: 401 on every path, before the body is looked at."""
    await uploaded(acme)
    tenant = acme.headers["authorization"].removeprefix("Bearer ")
    paths = [
        ("POST", "/claim"),
        ("PUT", f"/jobs/ftjob-1/blobs/{'0' * 64}"),
        ("HEAD", f"/jobs/ftjob-1/blobs/{'0' * 64}"),
    ]
    paths += [
        ("POST", f"/jobs/ftjob-1/{tail}")
        for tail in ("heartbeat", "events", "checkpoints", "complete", "fail", "release")
    ]
    paths += [("GET", "/jobs/ftjob-1/files/file-1"), ("GET", f"/jobs/ftjob-1/blobs/{'0' * 64}")]
    for client in (app.client(None), app.client(tenant), app.client(ADMIN_KEY), app.client("x", trainer_secret="")):
        for method, path in paths:
            assert (await client.request(method, f"/training/v1{path}", content=b"{")).status_code == 401


@pytest.mark.parametrize(
    ("tail", "body", "param"),
    [
        ("heartbeat", {"stage": "dance"}, "stage"),
        ("heartbeat", BEAT | {"mood": "good"}, "mood"),
        ("heartbeat", BEAT | {"step": -1}, "step"),
        ("events", {"events": [{"id": "a b"}]}, "events[0].id"),
        ("events", {"events": [{}] * 101}, "events"),
        ("checkpoints", {"step": 1, "blob": "short"}, "blob"),
        ("checkpoints", {"step": 1, "blob": "0" * 64}, "blob"),
        ("fail", {"code": "Not A Code", "message": ""}, "code"),
    ],
)
async def test_what_the_page_does_not_know_is_refused(
    app: TrainingApp, acme: httpx2.AsyncClient, tail: str, body: dict[str, Any], param: str
) -> None:
    """400 names the field: the two sides disagree, and the trainer must not go on guessing."""
    job = await app.job(acme)
    claimed = await app.claim(app.trainer())
    answer = await app.trainer().post(f"/training/v1/jobs/{job['id']}/{tail}", json=body, headers=fence(claimed))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


async def test_a_write_without_a_token_and_one_to_an_unknown_job(app: TrainingApp) -> None:
    """400 names the header; a job that is not there is 404."""
    answer = await app.trainer().post("/training/v1/jobs/ftjob-none/release", json={})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-fencing-token")
    for tail, body in (
        ("release", {}),
        ("heartbeat", BEAT),
        ("events", {"events": []}),
        ("fail", {"code": "c", "message": "m"}),
        ("complete", {"trained_tokens": 1}),
    ):
        answer = await app.trainer().post(
            f"/training/v1/jobs/ftjob-none/{tail}", json=body, headers={"x-fencing-token": "1"}
        )
        assert answer.status_code == 404


async def test_a_cancellation_and_a_failure_at_once_end_a_job_once(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """Ten rounds of both at the same moment: one takes effect, the other is refused, the log has one end."""
    for _ in range(10):
        job = await app.job(acme)
        claimed = await app.claim(app.trainer())
        error = {"code": "training_failed", "message": "m"}
        cancelled, failed = await asyncio.gather(
            acme.post(f"{JOBS}/{job['id']}/cancel"),
            app.trainer().post(f"/training/v1/jobs/{job['id']}/fail", json=error, headers=fence(claimed)),
        )
        status = (await acme.get(f"{JOBS}/{job['id']}")).json()["status"]
        assert (cancelled.status_code, failed.status_code, status) in (
            (200, 409, "cancelled"),
            (400, 204, "failed"),
        )


async def test_a_checkpoint_is_where_the_next_trainer_goes_on(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """Uploaded, committed, listed, handed to the next claim and downloaded there, also from the middle on."""
    job = await app.job(acme)
    claimed = await app.claim(app.trainer())
    trainer = app.trainer()
    trainer.headers.update(fence(claimed))
    path = f"/training/v1/jobs/{job['id']}"
    hashes = []
    for step in (10, 20):
        content = tar({"weights.bin": str(step).encode() * 100})
        sha = await put(trainer, path, content)
        hashes.append(sha)
        body = {"step": step, "blob": sha, "metrics": {"step": step, "train_loss": 1 / step}}
        assert (await trainer.post(f"{path}/checkpoints", json=body)).status_code == 204
    assert (await trainer.post(f"{path}/checkpoints", json={"step": 15, "blob": hashes[1]})).status_code == 204
    assert (await trainer.head(f"{path}/blobs/{hashes[0]}")).status_code == 404
    assert (await trainer.get(f"{path}/blobs/{hashes[0]}")).status_code == 404
    listed = (await acme.get(f"{JOBS}/{job['id']}/checkpoints", params={"limit": 1})).json()
    assert (listed["data"][0]["step_number"], listed["has_more"]) == (20, True)
    assert listed["data"][0]["metrics"] == {"step": 20, "train_loss": 0.05}
    rest = await acme.get(f"{JOBS}/{job['id']}/checkpoints", params={"after": listed["last_id"]})
    assert [one["step_number"] for one in rest.json()["data"]] == [10]
    app.clock.now += 61
    again = await app.claim(app.trainer(), "two")
    assert again is not None
    assert again["checkpoint"] == {"step": 20, "sha256": hashes[1], "bytes": len(content)}
    trainer.headers.update(fence(again))
    assert (await trainer.get(f"{path}/blobs/{hashes[1]}")).content == content
    part = await trainer.get(f"{path}/blobs/{hashes[1]}", headers={"range": "bytes=100-"})
    assert (part.status_code, part.content) == (206, content[100:])


async def put(trainer: httpx2.AsyncClient, path: str, content: bytes) -> str:
    """Upload a tar; returns its hash."""
    sha = hashlib.sha256(content).hexdigest()
    assert (await trainer.head(f"{path}/blobs/{sha}")).status_code == 404
    assert (await trainer.put(f"{path}/blobs/{sha}", content=content)).status_code == 201
    assert (await trainer.put(f"{path}/blobs/{sha}", content=content)).status_code == 200
    assert (await trainer.head(f"{path}/blobs/{sha}")).status_code == 200
    return sha


async def test_a_trainer_reads_the_files_of_its_job_only(app: TrainingApp, acme: httpx2.AsyncClient) -> None:
    """The claim's files, whole or in part, also past their date; any other file of the tenant is not there."""
    expiry = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file, other = await uploaded(acme, b"abcdef", **expiry), await uploaded(acme)
    job = await app.job(acme, file)
    app.clock.now += 4000
    claimed = await app.claim(app.trainer())
    assert claimed is not None
    path = f"/training/v1/jobs/{job['id']}/files"
    whole = await app.trainer().get(f"{path}/{file}", headers=fence(claimed))
    assert whole.content == b"abcdef"
    assert whole.headers["etag"] == f'"{claimed["files"]["training"]["sha256"]}"'
    part = await app.trainer().get(f"{path}/{file}", headers={**fence(claimed), "range": "bytes=2-"})
    assert (part.status_code, part.content) == (206, b"cdef")
    assert (await app.trainer().get(f"{path}/{other}", headers=fence(claimed))).status_code == 404


async def test_a_null_character_in_a_trainers_words_is_shown_as_what_it_is_not(
    app: TrainingApp, acme: httpx2.AsyncClient
) -> None:
    """PostgreSQL keeps none, and a trainer would send them again for ever: a provider's line, an error's words."""
    job = await app.job(acme)
    trainer = app.trainer()
    trainer.headers.update(fence(await app.claim(trainer)))
    event = {"id": "e1", "created_at": 1, "level": "info", "type": "message", "message": "a\0b"}
    path = f"/training/v1/jobs/{job['id']}"
    assert (await trainer.post(f"{path}/events", json={"events": [event]})).status_code == 204
    failure = {"code": "training_failed", "message": "c\0d"}
    assert (await trainer.post(f"{path}/fail", json=failure)).status_code == 204
    assert (await acme.get(f"{JOBS}/{job['id']}")).json()["error"]["message"] == "c\ufffdd"
    log = (await acme.get(f"{JOBS}/{job['id']}/events")).json()["data"]
    assert [one["message"] for one in log[:2]] == ["The job failed: c\ufffdd", "a\ufffdb"]
