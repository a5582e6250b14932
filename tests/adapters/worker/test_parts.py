"""A trainer's parts alone: settings, recipes for a job, files, the lease's clock, what a gateway's answers mean."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from adapters.errors import ConfigurationError
from adapters.gateway import (
    Disagreement,
    GatewayAway,
    GatewayError,
    JobOver,
    JobSpec,
    Lease,
    LeaseLost,
    TrainerRefused,
    TrainingApi,
)
from adapters.gateway.errors import Damaged, error_of
from adapters.training.artifact import pack
from adapters.training.errors import InvalidRecipe, InvalidTraining
from adapters.worker.lease import HeldLease, Sleep, Verdict, keep
from adapters.worker.prepare import prepare
from adapters.worker.recipes import recipe_for
from adapters.worker.settings import BaseSettings, load_trainer
from tests.support.fake_training_api import SECRET, FakeTrainingApi
from tests.support.training_data import chat_file


def said(code: str) -> bytes:
    """An error in the gateway's envelope."""
    error = {"message": "in words", "type": "invalid_request_error", "param": None, "code": code}
    return json.dumps({"error": error}).encode()


TINY = BaseSettings(path=Path("/models/tiny"), recipe="tiny-cpu", recipes={"big": "lora-70b-fsdp2"})


def job(**fields: Any) -> JobSpec:
    """A job on the tiny base."""
    given: dict[str, Any] = {
        "id": "ftjob-1",
        "tenant": "acme",
        "name": "support",
        "model": "tunegate-tiny",
        "attempt": 1,
    }
    return JobSpec(**(given | {"method": "supervised", "seed": 7, "created_at": 1} | fields))


def test_automatic_hyperparameters_keep_the_recipes_values() -> None:
    """Only the seed is the job's."""
    recipe = recipe_for(job(hyperparameters={"n_epochs": "auto", "batch_size": "auto"}), TINY)
    assert (recipe.seed, recipe.optimization.min_steps, recipe.optimization.batch_size) == (7, 150, 16)


def test_hyperparameters_change_the_recipe() -> None:
    """Epochs mean epochs, the rate is multiplied, and the batch is cut into parts that fit."""
    asked = {"n_epochs": 2, "batch_size": 12, "learning_rate_multiplier": 0.5}
    optimization = recipe_for(job(hyperparameters=asked), TINY).optimization
    assert (optimization.epochs, optimization.min_steps) == (2, 0)
    assert (optimization.batch_size, optimization.micro_batch_size) == (12, 4)
    assert optimization.learning_rate == pytest.approx(2e-3)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hyperparameters": {"n_epochs": 0}}, "n_epochs: auto, or a whole number from 1 to 50"),
        ({"hyperparameters": {"n_epochs": True}}, "n_epochs"),
        ({"hyperparameters": {"batch_size": 300}}, "batch_size: auto, or a whole number from 1 to 256"),
        ({"hyperparameters": {"batch_size": 9}, "recipe": "big"}, "trained by 8 processes; use a multiple"),
        ({"hyperparameters": {"learning_rate_multiplier": "fast"}}, "learning_rate_multiplier: auto"),
        ({"method": "dpo"}, "method: dpo"),
        ({"recipe": "other"}, "there are: big"),
    ],
)
def test_wrong_wishes_are_refused_by_name(fields: dict[str, Any], words: str) -> None:
    """In OpenAI's words, since that is what the tenant wrote."""
    with pytest.raises(InvalidRecipe, match=words):
        recipe_for(job(**fields), TINY)


def test_a_trainers_file_is_read_with_paths_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths are the file's; the secret is the environment's."""
    path = tmp_path / "trainer.yaml"
    path.write_text(
        "gateway: http://localhost:8000\nwork: work\nbases:\n"
        "  tiny: {path: base, recipe: mine.yaml, recipes: {b: tiny-cpu}}\n",
        encoding="utf-8",
    )
    settings = load_trainer(path)
    assert settings.work == tmp_path / "work"
    assert settings.bases["tiny"].path == tmp_path / "base"
    assert settings.bases["tiny"].recipe == str(tmp_path / "mine.yaml")
    assert settings.bases["tiny"].recipes == {"b": "tiny-cpu"}
    monkeypatch.setenv("TUNEGATE_TRAINER_SECRET", "s")
    assert settings.trainer_secret() == "s"
    monkeypatch.delenv("TUNEGATE_TRAINER_SECRET")
    with pytest.raises(ConfigurationError, match="TUNEGATE_TRAINER_SECRET is not set"):
        settings.trainer_secret()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("a: [", "is not YAML"),
        ("gateway: http://x\nwork: w\nbases: {}\n", "bases: Dictionary should have at least 1"),
        ("gateway: http://x\nwork: w\nbases: {a: {path: p}}\nspeed: 1\n", "speed: is not a setting"),
        ("gateway: ftp://x\nwork: w\nbases: {a: {path: p}}\n", "gateway: String should match"),
    ],
)
def test_a_wrong_trainers_file_is_refused_by_field(tmp_path: Path, text: str | None, words: str) -> None:
    """Before anything is claimed."""
    path = tmp_path / "trainer.yaml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=words):
        load_trainer(path)


def test_files_are_prepared_in_one_form_and_hashed(tmp_path: Path) -> None:
    """List contents become text, repeated rows are counted, and the hash is of the rows on both sides."""
    train = chat_file(tmp_path / "t.jsonl", count=12)
    asked = '{"role": "user", "content": [{"type": "text", "text": "Hi"}]}'
    part = f'{{"messages": [{asked}, {{"role": "assistant", "content": "Yes"}}]}}\n'
    with train.open("a", encoding="utf-8") as out:
        out.write(part * 2)
    made = prepare(train, None, tmp_path / "one", minimum=10, characters_max=1000)
    assert (made.rows, made.repeated, made.validation) == (14, 1, None)
    assert '"content":"Hi"' in made.train.read_text(encoding="utf-8")
    again = prepare(train, None, tmp_path / "two", minimum=10, characters_max=1000)
    other = prepare(
        train,
        chat_file(tmp_path / "v.jsonl", count=2, said="No, {}"),
        tmp_path / "three",
        minimum=10,
        characters_max=1000,
    )
    assert made.sha256 == again.sha256 != other.sha256


def test_validation_rows_that_are_trained_on_are_refused_by_line(tmp_path: Path) -> None:
    """Whatever form they are written in: they would measure what was learnt by heart."""
    train = chat_file(tmp_path / "t.jsonl", count=12)
    valid = chat_file(tmp_path / "v.jsonl", count=2, said="No, {}")
    (asked, answer) = json.loads(train.read_text(encoding="utf-8").splitlines()[4])["messages"][-2:]
    other = {"content": [{"type": "text", "text": answer["content"]}], "role": "assistant", "name": None}
    before = json.loads(train.read_text(encoding="utf-8").splitlines()[4])["messages"][:-2]
    with valid.open("a", encoding="utf-8") as out:
        out.write(json.dumps({"tools": None, "messages": [*before, asked, other]}) + "\n")
    with pytest.raises(InvalidTraining, match="1 of its 3 rows can also be found in the training file") as caught:
        prepare(train, valid, tmp_path / "out", minimum=10, characters_max=1000)
    assert "v.jsonl:3: is the same as the training file's t.jsonl:5" in str(caught.value)
    assert (caught.value.code, caught.value.param) == ("invalid_validation_file", "validation_file")


def test_a_bad_validation_file_is_named_as_such(tmp_path: Path) -> None:
    """By its own field, line and rule."""
    bad = tmp_path / "v.jsonl"
    bad.write_text('{"messages": []}\n', encoding="utf-8")
    with pytest.raises(InvalidTraining, match=r"v\.jsonl:1.*messages") as caught:
        prepare(chat_file(tmp_path / "t.jsonl", count=12), bad, tmp_path / "out", minimum=10, characters_max=1000)
    assert (caught.value.code, caught.value.param) == ("invalid_validation_file", "validation_file")


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, said("invalid_api_key"), TrainerRefused),
        (404, said("fine_tune_not_found"), JobOver),
        (404, said("not_found"), Disagreement),  # a file or a blob
        (409, said("job_finished"), JobOver),
        (409, said("lease_lost"), LeaseLost),
        (409, said("conflict"), Disagreement),  # as of a version that is marked failed
        (422, said("digest_mismatch"), Damaged),
        (429, b"", GatewayAway),
        (503, b"", GatewayAway),
        (400, said("invalid_value"), Disagreement),
        (302, b"<html>sign in</html>", GatewayAway),
        (401, b"<html>", GatewayAway),
        (404, b"default backend - 404", GatewayAway),
        (404, b'{"error": "not found"}', GatewayAway),
        (409, b"<html>", GatewayAway),
        (409, b"[" * 100_000, GatewayAway),
        (413, b"<html>413 Request Entity Too Large</html>", Disagreement),
    ],
)
def test_an_answer_means_what_the_page_says(status: int, body: bytes, kind: type[GatewayError]) -> None:
    """Whatever stands in front of the gateway: only its own words end a job or a trainer."""
    assert type(error_of(status, body)) is kind


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Let it pass."""
        self.now += seconds


@asynccontextmanager
async def connected(fake: FakeTrainingApi, clock: Clock, sleep: Sleep | None = None) -> AsyncIterator[TrainingApi]:
    """A client of the fake whose pauses take no time."""
    headers = {"authorization": f"Bearer {SECRET}"}
    async with httpx2.AsyncClient(base_url=fake.url, headers=headers) as client:
        yield TrainingApi(client, sleep=sleep or clock.sleep, clock=clock)


async def test_a_silent_gateway_is_given_up_after_the_lease_and_not_before() -> None:
    """Heartbeats that do not get through are tried again until the lease's length has passed."""
    clock = Clock()
    async with FakeTrainingApi(away=1000) as fake, connected(fake, clock) as api:
        held = HeldLease(Lease(1, expires_in_seconds=60, heartbeat_seconds=15))
        assert await keep(api, "ftjob-1", held, sleep=clock.sleep, clock=clock) is Verdict.SILENT
    assert clock.now == 75
    assert fake.requests["POST heartbeat"] == 5


@pytest.mark.parametrize(
    ("trouble", "verdict"),
    [
        ({"command": "cancel"}, Verdict.CANCEL),
        ({"command": "pause"}, Verdict.PAUSE),
        ({"token": 5}, Verdict.LOST),
        ({"status": "cancelled"}, Verdict.OVER),
    ],
)
async def test_a_heartbeat_hears_why_to_let_go(trouble: dict[str, Any], verdict: Verdict) -> None:
    """Cancelled, paused, taken, finished; after one good beat, and with what was told."""
    clock = Clock()
    async with FakeTrainingApi(heartbeat_seconds=15) as fake, connected(fake, clock) as api:
        known = fake.add("ftjob-1", b"rows")
        claim = await api.claim("one", ["tunegate-tiny"], 0)
        assert claim is not None
        held = HeldLease(claim.lease, stage="train", step=3, total_steps=9)

        async def sleep(seconds: float) -> None:
            await clock.sleep(seconds)
            if clock.now > 20:
                for name, value in trouble.items():
                    setattr(known, name, value)

        assert await keep(api, "ftjob-1", held, sleep=sleep, clock=clock) is verdict
    assert known.beats[0] == {"stage": "train", "step": 3, "total_steps": 9, "seconds_left": None}
    assert clock.now == 30


async def test_bytes_come_and_go_whole_or_not_at_all(tmp_path: Path) -> None:
    """Cut downloads go on, damaged ones start anew, damaged uploads are sent again, known blobs are not."""
    clock, content = Clock(), bytes(range(256)) * 5000
    async with FakeTrainingApi(cut_downloads=2, damage_uploads=1) as fake, connected(fake, clock) as api:
        fake.add("ftjob-1", content)
        claim = await api.claim("one", ["tunegate-tiny"], 0)
        assert claim is not None
        (tmp_path / "file.part").write_bytes(b"rubbish from an earlier life")
        await api.download("ftjob-1", 1, claim.files.training, tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == content
        tar = tmp_path / "a.tar"
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "x").write_bytes(b"x")
        sha256 = pack(tmp_path / "folder", tar)
        for _ in range(2):
            await api.upload("ftjob-1", 1, tar, sha256)
        await api.checkpoint("ftjob-1", 1, 4, sha256, {})
        await api.download_blob("ftjob-1", 1, sha256, tmp_path / "back.tar")
        assert (tmp_path / "back.tar").read_bytes() == tar.read_bytes()
    puts = [count for name, count in fake.requests.items() if name.startswith("PUT")]
    assert puts == [2]
