"""One claimed job, from files to registered version: prepare, train, servable, register.

Everything here is done under one lease and can be cancelled at any await. Each stage begins by looking what is there
already, so a job that comes back after a kill does again only what was under way: files are kept by hash, training goes
on from the newest whole checkpoint (of this machine or of the gateway), uploads are content-addressed, and completing
twice is completing once.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from adapters.gateway import Claim, Completion, Event, FileRef, GatewayAway, TrainingApi
from adapters.training.artifact import pack, read_manifest, unpack
from adapters.training.base_model import read_base
from adapters.training.checkpoints import newest, step_of, whole
from adapters.training.errors import BaseNotFound, TrainingFailed
from adapters.training.plan import TrainingPlan
from adapters.training.preflight import check, this_machine
from adapters.training.process import training
from adapters.training.progress import Progress
from adapters.training.provenance import file_sha256
from adapters.training.recipe import Recipe
from adapters.training.servable import check_adapter
from adapters.types import AdapterManifest
from adapters.worker.lease import HeldLease, Sleep
from adapters.worker.prepare import Prepared, prepare
from adapters.worker.provider import at_provider
from adapters.worker.recipes import recipe_for
from adapters.worker.settings import BaseSettings, TrainerSettings

_log = structlog.get_logger(__name__)
_TOLD_STEPS = 200  # at most about this many metrics events a job


@dataclass(slots=True)
class Job:
    """A job under way; `number` counts its events."""

    api: TrainingApi
    settings: TrainerSettings
    claim: Claim
    lease: HeldLease
    sleep: Sleep = asyncio.sleep
    number: int = 0
    untold: list[Event] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where this job's files lie."""
        return self.settings.work / self.claim.job.id

    @property
    def id(self) -> str:
        """The job's id."""
        return self.claim.job.id

    async def run(self) -> Completion:
        """Do all stages; TrainingError is for the tenant, a GatewayError for us."""
        if self.claim.job.provider is not None:
            return await at_provider(self, self.claim.job.provider)
        base = self._base()
        recipe = recipe_for(self.claim.job, base)
        self.lease.at("prepare")
        prepared = await self._prepare(recipe)
        plan = self._plan(recipe, base, prepared)
        await asyncio.to_thread(check, plan, this_machine())
        self.lease.at("train")
        await self._train(plan)
        self.lease.at("servable")
        manifest = await asyncio.to_thread(_judged, plan, recipe)
        self.lease.at("register")
        return await self._register(plan, manifest)

    def _base(self) -> BaseSettings:
        base = self.settings.bases.get(self.claim.job.model)
        if base is None:
            raise BaseNotFound(f"model: {self.claim.job.model} is not a base of this trainer", param="model")
        return base

    async def _prepare(self, recipe: Recipe) -> Prepared:
        files = self.claim.files
        training_file = await self.fetched(files.training)
        validation = await self.fetched(files.validation) if files.validation else None
        prepared = await asyncio.to_thread(
            prepare,
            training_file,
            validation,
            self.folder / "dataset",
            minimum=recipe.data.min_examples,
            characters_max=self.settings.characters_max,
        )
        await self._say(f"{prepared.rows} examples are valid")
        if prepared.repeated:
            await self._say(f"{prepared.repeated} examples repeat an earlier one", level="warn")
        return prepared

    async def fetched(self, file: FileRef) -> Path:
        """A file of the job on this machine's disk."""
        # Messages to the tenant name the file, so it keeps its name; one that would be another folder gets none.
        name = re.sub(r"[^A-Za-z0-9._-]", "_", file.filename)[-80:].lstrip(".") or "file"
        target = self.folder / "files" / file.sha256[:12] / name
        if not await asyncio.to_thread(_is_there, target, file.sha256):
            await self.api.download(self.id, self.lease.token, file, target)
        return target

    def _plan(self, recipe: Recipe, base: BaseSettings, prepared: Prepared) -> TrainingPlan:
        job = self.claim.job
        return TrainingPlan(
            tenant=job.tenant,
            name=job.name,
            recipe=recipe.model_dump(mode="json"),
            base_name=job.model,
            base_path=str(base.path),
            train_file=str(prepared.train),
            validation_file=str(prepared.validation) if prepared.validation else None,
            dataset=f"{self.claim.files.training.id}@{prepared.sha256[:12]}",
            dataset_sha256=prepared.sha256,
            work=str(self.folder / "training"),
        )

    async def _train(self, plan: TrainingPlan) -> None:
        if read_manifest(plan.adapter) is not None:
            return
        await self._take_up(plan)
        async with training(plan, self.settings.program) as process:
            self.lease.process = process
            try:
                async for news in process.steps(self.settings.progress_seconds):
                    await self._pass_on(plan, news)
                process.check()
            finally:
                self.lease.process = None

    async def _pass_on(self, plan: TrainingPlan, news: Sequence[Progress]) -> None:
        """Tell and save; a gateway that is away for a moment does not stop a training, only the lease's end does."""
        try:
            await self._tell(news)
            if any(one.kind == "checkpoint" for one in news):
                await self.save_checkpoint(plan.checkpoints, metrics_of(*news))
        except GatewayAway as exc:
            _log.warning("gateway_away", job=self.id, reason=str(exc))

    async def _take_up(self, plan: TrainingPlan) -> None:
        """Use the gateway's checkpoint when it is newer than what this machine has."""
        kept, offered = self.claim.checkpoint, newest(plan.checkpoints)
        if kept is None or (offered is not None and step_of(offered) >= kept.step):
            return
        archive = self.folder / f"checkpoint-{kept.step}.tar"
        await self.api.download_blob(self.id, self.lease.token, kept.sha256, archive)
        await asyncio.to_thread(unpack, archive, plan.checkpoints / f"checkpoint-{kept.step}")
        await self._say(f"Resuming from step {kept.step}")

    async def _tell(self, news: Sequence[Progress]) -> None:
        """Pass steps on: to the heartbeat all, to the job's log about 200 in all."""
        events = []
        for one in news:
            if one.total_steps:
                self.lease.step, self.lease.total_steps = one.step, one.total_steps
            if one.kind == "step":
                self.lease.seconds_left = one.seconds_left
            every = max(1, one.total_steps // _TOLD_STEPS)
            if one.kind == "start":
                events.append(self._event(one.message))
            elif one.kind == "evaluation" or (
                one.kind == "step" and (one.step % every == 0 or one.step == one.total_steps)
            ):
                events.append(self._event(_words(one), data=metrics_of(one)))
        self.untold += events
        if self.untold:
            await self.api.events(self.id, self.lease.token, self.untold)
            self.untold.clear()

    async def save_checkpoint(self, checkpoints: Path, metrics: dict[str, Any]) -> None:
        """Bring the newest whole checkpoint up and commit it; one of shards stays where all ranks see it."""
        packed = await asyncio.to_thread(_packed_checkpoint, checkpoints, self.folder / "checkpoint.upload")
        if packed is not None:
            archive, sha256, step = packed
            await self.api.upload(self.id, self.lease.token, archive, sha256)
            await self.api.checkpoint(self.id, self.lease.token, step, sha256, metrics | {"step": step})

    async def _register(self, plan: TrainingPlan, manifest: AdapterManifest) -> Completion:
        archive = self.folder / "adapter.upload"
        sha256 = await asyncio.to_thread(pack, plan.adapter, archive)
        await self.api.upload(self.id, self.lease.token, archive, sha256)
        return await self.api.complete(self.id, self.lease.token, sha256, manifest)

    async def _say(self, message: str, level: str = "info") -> None:
        await self.api.events(self.id, self.lease.token, [self._event(message, level=level)])

    def _event(self, message: str, *, level: str = "info", data: dict[str, Any] | None = None) -> Event:
        self.number += 1
        name = hashlib.sha256(f"{self.id}:{self.lease.token}:{self.number}".encode()).hexdigest()[:24]
        return Event(f"ftevent-{name}", int(time.time()), level, "metrics" if data else "message", message, data)


def _is_there(path: Path, sha256: str) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.is_file() and file_sha256(path) == sha256


def _judged(plan: TrainingPlan, recipe: Recipe) -> AdapterManifest:
    """The finished adapter, judged once more by vLLM's rules: what is uploaded is what was judged."""
    manifest = read_manifest(plan.adapter)
    if manifest is None:
        raise TrainingFailed("the training ended without a whole adapter")
    check_adapter(plan.adapter, read_base(Path(plan.base_path)), max_lora_rank=recipe.serving.max_lora_rank)
    return manifest


def _packed_checkpoint(checkpoints: Path, archive: Path) -> tuple[Path, str, int] | None:
    """A tar of the newest whole checkpoint; the others are left alone, since one may just be under way."""
    kept = whole(checkpoints)
    if not kept or any(path.is_dir() for path in kept[-1].iterdir()):
        return None
    return archive, pack(kept[-1], archive), step_of(kept[-1])


def metrics_of(*news: Progress) -> dict[str, Any]:
    """The newest figures in the names of OpenAI's checkpoint object."""
    figures: dict[str, Any] = {}
    for one in news:
        told = {
            "step": one.step,
            "total_steps": one.total_steps,
            "train_loss": one.train_loss,
            "train_mean_token_accuracy": one.train_accuracy,
            "valid_loss": one.valid_loss,
            "valid_mean_token_accuracy": one.valid_accuracy,
        }
        figures |= {name: value for name, value in told.items() if value is not None}
    return figures


def _words(one: Progress) -> str:
    place = f"Step {one.step}/{one.total_steps}"
    if one.kind == "evaluation":
        return f"{place}: validation loss={one.valid_loss:.4f}"
    return f"{place}: training loss={one.train_loss:.4f}"
