"""What jobs leave on a trainer's disk, and the folder that one trainer holds."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import msgspec
import pytest

from adapters.errors import ConfigurationError
from adapters.gateway import TrainingApi
from adapters.worker.folder import held
from adapters.worker.leftovers import Leftovers
from adapters.worker.loop import Worker
from tests.adapters.worker.test_trainer import ROOT, settings, trainer, until
from tests.support.fake_training_api import SECRET, FakeJob, FakeTrainingApi


@pytest.fixture
async def fake() -> AsyncIterator[FakeTrainingApi]:
    """A gateway."""
    async with FakeTrainingApi() as made:
        yield made


@pytest.fixture
async def api(fake: FakeTrainingApi) -> AsyncIterator[TrainingApi]:
    """A client of it."""
    async with httpx2.AsyncClient(base_url=fake.url, headers={"authorization": f"Bearer {SECRET}"}) as client:
        yield TrainingApi(client)


async def left(fake: FakeTrainingApi, api: TrainingApi, leftovers: Leftovers, folder: Path) -> FakeJob:
    """A job that was worked on here and given back, with a tenant's file in its folder."""
    job = fake.add(f"ftjob-{len(fake.jobs)}", b"rows")
    claim = await api.claim("one", ["tunegate-tiny"], 0)
    assert claim is not None
    leftovers.mark(claim)
    (folder / claim.job.id / "train.jsonl").write_bytes(b"a tenant's")
    await api.release(claim.job.id, claim.lease.token, "shutting down")
    job.status = "paused"
    return job


async def test_folders_of_jobs_that_are_over_or_anothers_go(
    tmp_path: Path, fake: FakeTrainingApi, api: TrainingApi
) -> None:
    """One that rests stays for whoever resumes it, and so does one that this trainer has still."""
    wanted = settings(tmp_path, fake.url)
    leftovers, work = Leftovers(api, wanted.work), wanted.work
    jobs = [await left(fake, api, leftovers, work) for _ in range(6)]
    _, cancelled, failed, taken, held_still, _ = jobs
    cancelled.status, failed.status, held_still.status = "cancelled", "failed", "running"
    taken.status, taken.token = "running", taken.token + 1
    del fake.jobs["ftjob-5"]
    (work / "notes").mkdir()
    await leftovers.tidy()
    assert sorted(path.name for path in work.iterdir()) == ["ftjob-0", "ftjob-4", "notes"]
    assert (jobs[0].status, held_still.status, held_still.spec["attempt"]) == ("paused", "running", 0)


async def test_a_gateway_that_is_away_is_asked_the_next_time(
    tmp_path: Path, fake: FakeTrainingApi, api: TrainingApi
) -> None:
    """Nothing is removed on a guess, nor on another server's word."""
    wanted = settings(tmp_path, fake.url)
    leftovers = Leftovers(api, wanted.work)
    job = await left(fake, api, leftovers, wanted.work)
    job.status = "cancelled"
    for trouble in ({"away": 1}, {"elsewhere": [404]}, {"refuse": {"POST events": (400, "invalid_value")}}):
        for name, value in trouble.items():
            setattr(fake, name, value)
        await leftovers.tidy()
        assert (wanted.work / "ftjob-0" / "train.jsonl").exists()
    fake.refuse.clear()
    (wanted.work / "ftjob-0" / "claim.json").write_bytes(b"{")
    await leftovers.tidy()
    assert (wanted.work / "ftjob-0").exists()


async def test_a_trainer_looks_at_its_start_and_between_jobs(
    tmp_path: Path, fake: FakeTrainingApi, api: TrainingApi
) -> None:
    """By its clock about once a minute, so that a job that was cancelled while it rested is soon off the disk."""
    wanted = settings(tmp_path, fake.url)
    leftovers = Leftovers(api, wanted.work)
    first, second = [await left(fake, api, leftovers, wanted.work) for _ in range(2)]
    first.status = "cancelled"
    now = [0.0]
    stop = asyncio.Event()
    running = asyncio.create_task(Worker(api, wanted, clock=lambda: now[0]).run(stop))
    try:
        await until(lambda: not (wanted.work / "ftjob-0").exists(), seconds=20)
        second.status = "cancelled"
        now[0] = 61.0
        await until(lambda: not (wanted.work / "ftjob-1").exists(), seconds=20)
    finally:
        stop.set()
        await running


async def test_a_paused_job_stays_until_it_is_cancelled(tmp_path: Path, fake: FakeTrainingApi) -> None:
    """The whole way: its file is here while it rests, and gone when a trainer in that folder starts after its end."""
    job = fake.add("ftjob-paused", b"x" * 100)
    fake.hold = "file-train"
    async with trainer(settings(tmp_path, fake.url)):
        await until(lambda: job.beats, seconds=20)
        job.command = "pause"
        await until(lambda: job.status == "paused", seconds=20)
    fake.hold = ""
    folder = tmp_path / "one" / "ftjob-paused"
    assert folder.exists()
    async with trainer(settings(tmp_path, fake.url)):
        await until(lambda: fake.requests["POST claim"] > 1, seconds=20)
        assert folder.exists()
    job.status = "cancelled"
    async with trainer(settings(tmp_path, fake.url)):
        await until(lambda: not folder.exists(), seconds=20)


def test_a_folder_is_held_by_one_trainer_and_keeps_its_name(tmp_path: Path) -> None:
    """The name is another folder's for no trainer; one that was damaged is drawn anew."""
    with held(tmp_path / "a", "gpu") as name:
        assert name.startswith("gpu-")
        with pytest.raises(ConfigurationError, match=r"work: .* is the folder of another trainer that is running"):
            held(tmp_path / "a", "gpu").__enter__()
        with held(tmp_path / "b", "gpu") as other:
            assert other != name
    with held(tmp_path / "a", "gpu" * 100) as again:
        assert again.rpartition("-")[2] == name.rpartition("-")[2]
        assert len(again) <= 200
    (tmp_path / "a" / ".name").write_text("../x\n", encoding="utf-8")
    with held(tmp_path / "a", "gpu") as drawn:
        assert len(drawn) == len(name)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"work: .* cannot be written \(Not a directory\)"):
        held(tmp_path / "file" / "work", "gpu").__enter__()


async def test_two_trainers_of_one_host_do_not_share_a_folder_or_a_name(tmp_path: Path, fake: FakeTrainingApi) -> None:
    """Real processes: the second of a folder is refused before it claims, one in a folder of its own is another."""
    fake.hold = "file-train"
    jobs = [fake.add(f"ftjob-{number}", b"rows") for number in range(2)]
    processes = []
    try:
        for number, work in enumerate(("a", "a", "b")):
            told = settings(tmp_path, fake.url).model_dump(mode="json") | {"name": "gpu", "work": str(tmp_path / work)}
            path = tmp_path / f"{number}.json"
            path.write_bytes(msgspec.json.encode(told))
            processes.append(
                await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "tests.adapters.worker.run_trainer",
                    str(path),
                    cwd=ROOT,
                    env={**os.environ, "TUNEGATE_TRAINER_SECRET": SECRET},
                    stderr=asyncio.subprocess.PIPE,
                )
            )
            if number == 0:
                await until(lambda: jobs[0].holder, seconds=60)
            if number == 1:
                _, said = await asyncio.wait_for(processes[1].communicate(), 60)
                assert b"is the folder of another trainer" in said
        await until(lambda: jobs[1].holder, seconds=60)
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert jobs[0].holder != jobs[1].holder
    assert [job.token for job in jobs] == [1, 1]
