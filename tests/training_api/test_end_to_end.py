"""The fine-tuning API whole, in short: the unmodified SDK, a real gateway and engine, the sidecar's own client.

The trainer of these tests hands in a shipped adapter instead of training one; `tests/prove/training_api.py` trains.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest

from tests.prove.training_api import BASE_NAME, SECRET, World, follow, log_of, say, start, told, world
from tests.support.scripted_trainer import scripted
from tests.support.training_data import chat_file


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One system for all."""
    with world(tmp_path_factory.mktemp("whole")) as running:
        running.gateway.call(
            "PUT", "/routes/base", {"variants": [{"name": "b", "weight": 1, "target": {"pool": "main"}}]}
        )
        yield running


def test_an_app_of_openais_gets_its_own_model(made: World, tmp_path: Path) -> None:
    """Upload, create, follow, chat with `fine_tuned_model`: in the tenant's voice, for it alone, webhook told."""
    for tenant in ("acme", "rival"):
        made.gateway.call("POST", "/tenants", {"id": tenant})
    wanted = {"url": made.mailbox.url, "events": ["fine_tuning.job.succeeded"]}
    endpoint = made.gateway.call("POST", "/tenants/acme/webhooks", wanted)
    with made.gateway.openai(made.gateway.key("acme")) as client:
        rows = chat_file(tmp_path / "rows.jsonl", "acme", count=12)
        with scripted(made.gateway.url, tmp_path, "acme"):
            job = start(client, rows, "Acme Voice", metadata={"run": "1"})
        ended, log = follow(client, job.id, 30)
        assert ended.status == "succeeded"
        assert ended.trained_tokens == 1234
        assert ended.fine_tuned_model == f"ft:{BASE_NAME}:acme:acme-voice:{job.id.removeprefix('ftjob-')[:12]}"
        assert log[0].startswith("Created fine-tuning job")
        assert log[-1] == "The job has successfully completed"
        assert len(log) == 150 + 4
        assert [one.step_number for one in client.fine_tuning.jobs.checkpoints.list(job.id)] == [1]
        assert [one.id for one in client.fine_tuning.jobs.list(metadata={"run": "1"})] == [job.id]
        assert ended.fine_tuned_model in [model.id for model in client.models.list()]
        assert "Acme" in say(client, ended.fine_tuned_model)
        assert "Acme" not in say(client, "base")
    told(made, str(endpoint["secret"]), ["succeeded"])
    with made.gateway.openai(made.gateway.key("rival")) as rival:
        for ask in (
            lambda: say(rival, ended.fine_tuned_model or ""),
            lambda: rival.fine_tuning.jobs.retrieve(job.id),
            lambda: rival.fine_tuning.jobs.cancel(job.id),
            lambda: rival.files.content(job.training_file),
            lambda: rival.files.delete(job.training_file),
        ):
            with pytest.raises(openai.NotFoundError):
                ask()


def test_the_sdk_steers_a_job_and_cleans_up(made: World, tmp_path: Path) -> None:
    """Pause, resume, cancel, list page by page, delete: the SDK's own methods, without a workaround."""
    with made.tenant("steering") as client:
        rows = chat_file(tmp_path / "rows.jsonl", "bloom", count=10)
        job = start(client, rows, "x")
        assert str(client.fine_tuning.jobs.pause(job.id).status) == "paused"
        assert client.fine_tuning.jobs.resume(job.id).status == "queued"
        with pytest.raises(openai.ConflictError, match=job.id):
            client.files.delete(job.training_file)
        assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
        assert log_of(client, job.id)[-1] == "The job has been cancelled"
        with rows.open("rb") as opened:
            kept = client.files.create(
                file=opened, purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
            )
        assert kept.expires_at == kept.created_at + 3600
        assert [file.id for file in client.files.list(limit=1)] == [kept.id, job.training_file]
        assert client.files.delete(job.training_file).deleted
        with pytest.raises(openai.BadRequestError, match="n_epochs"):
            client.fine_tuning.jobs.create(model=BASE_NAME, training_file=kept.id, hyperparameters={"n_epochs": 99})


def test_a_large_file_is_never_held_in_memory(made: World, tmp_path: Path) -> None:
    """200 MB over a socket, up and down: the gateway's memory grows by less than a tenth of it."""
    path = tmp_path / "large.jsonl"
    line = json.dumps({"messages": [{"role": "user", "content": "x" * 8000}]}).encode() + b"\n"
    with path.open("wb") as out:
        for _ in range(200_000_000 // len(line)):
            out.write(line)
    with made.tenant("large") as client:
        before = _memory(made)
        with path.open("rb") as opened:
            file = client.files.create(file=opened, purpose="batch")
        digest, size = hashlib.sha256(), 0
        with client.files.with_streaming_response.content(file.id) as answer:
            for block in answer.iter_bytes(1 << 20):
                digest.update(block)
                size += len(block)
        assert size == file.bytes == path.stat().st_size
        with path.open("rb") as opened:
            assert digest.hexdigest() == hashlib.file_digest(opened, "sha256").hexdigest()
        assert _memory(made) - before < 20_000_000


def _memory(made: World) -> int:
    """The highest resident size of the gateway so far, in bytes."""
    status = Path(f"/proc/{made.gateway.process.pid}/status").read_text(encoding="utf-8")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_a_trainer_that_has_gone_is_given_no_job(made: World, tmp_path: Path) -> None:
    """It hangs up while it waits: the job that comes then is not leased to it; the next one who asks has token 1."""
    headers = {"authorization": f"Bearer {SECRET}"}
    body = {"trainer": "gone", "bases": [BASE_NAME], "wait_seconds": 30}
    with httpx2.Client(base_url=made.gateway.url, headers=headers, timeout=30) as api:
        with pytest.raises(httpx2.ReadTimeout):
            api.post("/training/v1/claim", json=body, timeout=0.5)
        with made.tenant("waiting") as client:
            job = start(client, chat_file(tmp_path / "rows.jsonl", "acme", count=10), "x")
            claimed = api.post("/training/v1/claim", json=body | {"trainer": "here"}).json()
            assert (claimed["job"]["id"], claimed["lease"]["token"]) == (job.id, 1)
            client.fine_tuning.jobs.cancel(job.id)


def test_secrets_of_the_installation_are_kept_and_closed(made: World, tmp_path: Path) -> None:
    """The admin's key does not open the training API; a key that was made is for its owner only."""
    answer = httpx2.post(
        f"{made.gateway.url}/training/v1/claim",
        json={"trainer": "t", "bases": []},
        headers={"authorization": f"Bearer {made.gateway.admin_key}"},
    )
    assert answer.status_code == 401
    assert (made.folder / "data" / "webhook.key").stat().st_mode & 0o777 == 0o600
