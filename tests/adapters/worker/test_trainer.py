"""Trainers against the training API over HTTP: real trainings of the tiny model, and everything that cuts them off."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from adapters.gateway import TrainerRefused, TrainingApi
from adapters.worker.loop import Worker
from adapters.worker.settings import TrainerSettings
from tests.support.fake_training_api import SECRET, FakeJob, FakeTrainingApi
from tests.support.training_data import BASE, chat_file

ROOT = Path(__file__).resolve().parents[3]
RECIPE = """
name: test
base: tunegate-tiny
adapter: {rank: 8, alpha: 16}
data: {max_tokens: 256}
optimization: {max_steps: 6, batch_size: 8, micro_batch_size: 8, learning_rate: 4.0e-3, precision: float32}
checkpoints: {every_steps: 2, keep: 2}
launch: {cpu_threads: 1}
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Twenty good conversations."""
    return chat_file(tmp_path_factory.mktemp("rows") / "train.jsonl", count=20).read_bytes()


def settings(folder: Path, gateway: str, name: str = "one", steps: int = 6, *, real: bool = False) -> TrainerSettings:
    """A trainer on the tiny base with a recipe of a few steps; its training program is a fake unless `real`."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.replace("max_steps: 6", f"max_steps: {steps}"), encoding="utf-8")
    return TrainerSettings.model_validate(
        {
            "gateway": gateway,
            "name": name,
            "work": folder / name,
            "bases": {"tunegate-tiny": {"path": BASE, "recipe": str(recipe)}},
            "poll_seconds": 0,
            "progress_seconds": 0.05,
            "program": () if real else (sys.executable, "-m", "tests.support.fake_training"),
        }
    )


@asynccontextmanager
async def trainer(
    wanted: TrainerSettings, *, secret: str = SECRET
) -> AsyncIterator[tuple[asyncio.Task[None], asyncio.Event]]:
    """A trainer in this process; leaving the block stops it politely."""
    stop = asyncio.Event()
    headers = {"authorization": f"Bearer {secret}"}
    async with httpx2.AsyncClient(base_url=wanted.gateway, headers=headers, timeout=10) as client:
        running = asyncio.create_task(Worker(TrainingApi(client), wanted).run(stop))
        try:
            yield running, stop
        finally:
            stop.set()
            await asyncio.gather(running, return_exceptions=True)


async def until(condition: Any, seconds: float = 240) -> None:
    """Poll, or fail."""
    for _ in range(int(seconds / 0.05)):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come to that")


def steps_of(job: FakeJob) -> list[int]:
    """The steps that the job's log tells, in order."""
    return [event["data"]["step"] for event in job.events.values() if event["type"] == "metrics"]


async def test_a_job_becomes_a_registered_version(tmp_path: Path, rows: bytes) -> None:
    """With a real training: files down, steps told, adapter up with its manifest, nothing left on the disk."""
    validation = chat_file(tmp_path / "valid.jsonl", count=4, seed=2).read_bytes()
    async with FakeTrainingApi(cut_downloads=1, damage_uploads=1) as api:
        job = api.add("ftjob-real", rows, validation)
        async with trainer(settings(tmp_path, api.url, steps=2, real=True)):
            await until(lambda: job.status not in ("queued", "running"))
    assert job.error is None
    assert job.completion is not None
    assert job.manifest is not None
    assert job.manifest["dataset"].startswith("file-train@")
    assert job.manifest["metrics"]["valid_loss"] > 0
    assert steps_of(job) == [1, 2, 2]
    assert set(api.versions[job.completion["version"]]) == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    }
    assert not list((tmp_path / "one").iterdir())


async def test_a_killed_trainer_is_replaced_and_its_successor_goes_on(tmp_path: Path, rows: bytes) -> None:
    """Kill -9 of one trainer: its training ends with it, another takes the checkpoint from the gateway and finishes."""
    async with FakeTrainingApi() as api:
        job = api.add("ftjob-killed", rows)
        wanted = settings(tmp_path, api.url, steps=100)
        (tmp_path / "one.json").write_bytes(msgspec.json.encode(wanted.model_dump(mode="json")))
        killed = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.adapters.worker.run_trainer",
            str(tmp_path / "one.json"),
            cwd=ROOT,
            env={**os.environ, "TUNEGATE_TRAINER_SECRET": SECRET},
        )
        try:
            await until(lambda: job.checkpoint is not None)
        finally:
            killed.send_signal(signal.SIGKILL)
            await killed.wait()
        assert job.status == "running"
        progress = tmp_path / "one" / "ftjob-killed" / "training" / "progress.jsonl"
        await until(lambda: _is_still(progress))
        api.expire("ftjob-killed")
        reached = job.checkpoint["step"] if job.checkpoint else 0
        async with trainer(settings(tmp_path, api.url, name="two", steps=100)):
            await until(lambda: job.status == "succeeded")
    assert job.token == 2
    assert f"Resuming from step {reached}" in job.messages
    assert steps_of(job)[-1] == 100


async def test_a_restarted_trainer_goes_on_from_its_own_disk(tmp_path: Path, rows: bytes) -> None:
    """Under the same name it gets its job at once, and uses its own newer checkpoint."""
    async with FakeTrainingApi() as api:
        job = api.add("ftjob-again", rows)
        async with trainer(settings(tmp_path, api.url, steps=60)) as (running, _):
            await until(lambda: job.checkpoint is not None)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        job.checkpoint = {"step": 1, "sha256": "0" * 64, "bytes": 1}
        async with trainer(settings(tmp_path, api.url, steps=60)):
            await until(lambda: job.status == "succeeded")
    assert job.token == 2
    assert not any(message.startswith("Resuming from step 1") for message in job.messages)


def _is_still(path: Path, seconds: float = 0.3) -> bool:
    """Whether a file has not grown for a while."""
    import time

    before = path.stat().st_size
    time.sleep(seconds)
    return path.stat().st_size == before


async def test_a_trainer_that_lost_its_lease_registers_nothing(tmp_path: Path, rows: bytes) -> None:
    """While it trains somebody else gets the job: its next word is refused, its training ends, its folder goes."""
    async with FakeTrainingApi() as api:
        job = api.add("ftjob-fenced", rows)
        async with trainer(settings(tmp_path, api.url, steps=500)):
            await until(lambda: steps_of(job))
            job.token += 1
            job.holder = "another"
            await until(lambda: not (tmp_path / "one" / "ftjob-fenced").exists())
        assert (job.status, job.completion, api.versions) == ("running", None, {})


async def test_a_pause_saves_gives_back_and_a_resume_goes_on(tmp_path: Path, rows: bytes) -> None:
    """The training stops after its step, the checkpoint of that step is at the gateway, and nobody claims it."""
    async with FakeTrainingApi() as api:
        job = api.add("ftjob-paused", rows)
        async with trainer(settings(tmp_path, api.url, steps=300)):
            await until(lambda: steps_of(job))
            job.command = "pause"
            await until(lambda: job.status == "paused")
        assert job.checkpoint is not None
        assert job.checkpoint["step"] >= max(steps_of(job)) - 1
        assert job.spec["attempt"] == 0


async def test_a_shutdown_gives_the_job_back(tmp_path: Path, rows: bytes) -> None:
    """SIGTERM, as Kubernetes sends it: the job is queued again at once and has lost no attempt."""
    async with FakeTrainingApi() as api:
        job = api.add("ftjob-stopped", rows)
        async with trainer(settings(tmp_path, api.url, steps=300)) as (running, stop):
            await until(lambda: api.requests["GET file-train"] and job.beats)
            stop.set()
            await running
        assert (job.status, job.spec["attempt"]) == ("queued", 0)


@pytest.mark.parametrize(
    ("body", "spec", "code", "words"),
    [
        (
            b'{"messages": [{"role": "user", "content": "Hi"}]}\n' * 12,
            {},
            "invalid_training_file",
            "training.jsonl: 12 problems in 12 rows (no_assistant 12)",
        ),
        (b"", {}, "too_few_examples", "at least 10"),
        (None, {"hyperparameters": {"n_epochs": 99}}, "invalid_recipe", "n_epochs: auto, or a whole number"),
        (None, {"method": "dpo"}, "invalid_recipe", "method: dpo is not offered"),
        (None, {"recipe": "huge"}, "invalid_recipe", "recipe: huge is not offered"),
    ],
)
async def test_what_cannot_be_trained_fails_early_in_words(
    tmp_path: Path, rows: bytes, body: bytes | None, spec: dict[str, Any], code: str, words: str
) -> None:
    """The tenant reads file, rule and count; nothing is uploaded, nothing registered."""
    async with FakeTrainingApi() as api:
        job = api.add("ftjob-bad", rows if body is None else body, **spec)
        async with trainer(settings(tmp_path, api.url)):
            await until(lambda: job.status == "failed", seconds=20)
    assert job.error is not None
    assert job.error["code"] == code
    assert words in job.error["message"]
    assert re.search("[0-9a-f]{12}", job.error["message"]) is None  # no name of our own folders
    assert (job.blobs, api.versions) == ({}, {})


async def test_a_gateway_that_is_away_is_asked_again(tmp_path: Path, rows: bytes) -> None:
    """503s around a claim and a download cost time only."""
    async with FakeTrainingApi() as api:
        job = api.add("ftjob-away", b"")
        async with trainer(settings(tmp_path, api.url)):
            await until(lambda: api.requests["POST claim"] > 0)
            api.away = 1
            await until(lambda: job.status == "failed", seconds=30)


async def test_a_wrong_secret_ends_the_trainer(tmp_path: Path) -> None:
    """It says which secret is meant, and does not hammer the gateway."""
    async with FakeTrainingApi() as api, trainer(settings(tmp_path, api.url), secret="wrong") as (running, _):
        with pytest.raises(TrainerRefused, match="trainer secret"):
            await running
    assert api.requests["POST claim"] == 1


async def test_two_trainers_share_the_queue(tmp_path: Path) -> None:
    """Every job is worked on once."""
    async with FakeTrainingApi() as api:
        jobs = [api.add(f"ftjob-{number}", b"") for number in range(6)]
        async with trainer(settings(tmp_path, api.url, name="one")), trainer(settings(tmp_path, api.url, name="two")):
            await until(lambda: all(job.status == "failed" for job in jobs), seconds=30)
    assert [job.token for job in jobs] == [1] * 6
    assert {job.holder for job in jobs} <= {"one", "two"}
    assert not list((tmp_path / "one").iterdir())
