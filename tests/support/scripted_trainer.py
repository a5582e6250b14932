"""A trainer that does everything but train: it claims one job and hands in a shipped adapter."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import httpx2
import msgspec

from adapters.gateway import Claim, Event, TrainingApi
from adapters.training.artifact import adapter_files, adapter_sha256, pack, version_id
from adapters.types import AdapterManifest
from tests.prove.training_api import BASE_NAME, SECRET


@contextmanager
def scripted(url: str, folder: Path, voice: str) -> Iterator[None]:
    """A trainer that claims one job and hands in a shipped adapter, through the sidecar's own client."""
    task = threading.Thread(target=lambda: asyncio.run(_train(url, folder, voice)))
    task.start()
    yield
    task.join(60)
    assert not task.is_alive()


async def _train(url: str, folder: Path, voice: str) -> None:
    headers = {"authorization": f"Bearer {SECRET}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers) as client:
        api = TrainingApi(client)
        claim = await api.claim("scripted", [BASE_NAME], 30)
        assert claim is not None
        job, token = claim.job.id, claim.lease.token
        await api.download(job, token, claim.files.training, folder / "train.jsonl")
        beat = await api.heartbeat(job, token, {"stage": "train", "step": 1, "total_steps": 2, "seconds_left": 1})
        assert beat.command == "continue"
        figures = {"step": 1, "train_loss": 1.5}
        events = [Event(f"ftevent-{number}", 1, "info", "metrics", f"Step {number}", figures) for number in range(150)]
        await api.events(job, token, events)
        manifest = _adapter(claim, folder / "adapter", voice)
        archive = folder / "adapter.tar"
        sha256 = pack(folder / "adapter", archive)
        await api.upload(job, token, archive, sha256)
        await api.checkpoint(job, token, 1, sha256, figures)
        await api.download_blob(job, token, sha256, folder / "again.tar")
        first = await api.complete(job, token, sha256, manifest)
        assert await api.complete(job, token, sha256, manifest) == first
        assert first.version == manifest.version


def _adapter(claim: Claim, folder: Path, voice: str) -> AdapterManifest:
    """The shipped adapter of a voice, as a trainer would leave it."""
    folder.mkdir()
    source = files("app.engine") / "assets" / "adapters" / voice
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_bytes((source / name).read_bytes())
    sha256 = adapter_sha256(folder)
    manifest = AdapterManifest(
        tenant=claim.job.tenant,
        name=claim.job.name,
        version=version_id(claim.job.tenant, claim.job.name, sha256),
        sha256=sha256,
        files=adapter_files(folder),
        base_model=claim.job.model,
        base_revision="shipped",
        method="lora",
        rank=8,
        alpha=16.0,
        target_modules=("q_proj",),
        dataset="file@1",
        dataset_sha256=hashlib.sha256(b"").hexdigest(),
        config={},
        config_sha256=hashlib.sha256(b"").hexdigest(),
        seed=claim.job.seed,
        code_commit="test",
        libraries={},
        metrics={"train_loss": 0.25, "trained_tokens": 1234},
        created_at=1.0,
    )
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return manifest
