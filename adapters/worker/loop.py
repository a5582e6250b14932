"""The trainer's loop: ask for a job, do it under its lease, ask again; and every way in which a job can end.

How it ends decides what is told and what is kept. Done, failed, cancelled, lost: the folder goes. Stopped, paused,
silent: the newest checkpoint is brought up if it can be, the job is given back, the folder stays for the next claim. An
error that nobody foresaw ends the trainer (its supervisor starts it anew, the lease runs out, the gateway counts the
attempt): crash-only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any, TypeVar

import structlog

from adapters.gateway import Claim, Completion, Disagreement, GatewayAway, GatewayError, JobOver, LeaseLost, TrainingApi
from adapters.training.errors import TrainingError
from adapters.worker.job import Job
from adapters.worker.lease import Clock, HeldLease, Sleep, Verdict, keep
from adapters.worker.settings import TrainerSettings

_log = structlog.get_logger(__name__)
_AWAY_SECONDS = 5.0
T = TypeVar("T")


class Ending(StrEnum):
    """How a job ended for this trainer."""

    DONE = "done"
    FAILED = "failed"
    DROPPED = "dropped"
    RELEASED = "released"


class Worker:
    """One trainer: one job at a time, as many trainers as wanted."""

    def __init__(
        self,
        api: TrainingApi,
        settings: TrainerSettings,
        *,
        sleep: Sleep = asyncio.sleep,
        clock: Clock = time.monotonic,
    ) -> None:
        self._api = api
        self._settings = settings
        self._sleep = sleep
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop; TrainerRefused ends it, a gateway that is away does not."""
        while not stop.is_set():
            try:
                claim = await until(stop, self._claim())
            except GatewayAway as exc:
                _log.warning("gateway_away", reason=str(exc))
                await until(stop, self._sleep(_AWAY_SECONDS))
                continue
            if claim is not None:
                await self.work(claim, stop)
            elif not stop.is_set():
                await until(stop, self._sleep(1.0))

    async def _claim(self) -> Claim | None:
        own = self._settings
        return await self._api.claim(own.name, tuple(own.bases), own.poll_seconds, tuple(own.providers))

    async def work(self, claim: Claim, stop: asyncio.Event) -> Ending:
        """Do one job to whatever end it comes."""
        job = Job(self._api, self._settings, claim, HeldLease(claim.lease))
        _log.info("job_claimed", job=job.id, tenant=claim.job.tenant, base=claim.job.model, attempt=claim.job.attempt)
        ending = await self._ended(job, stop)
        _log.info("job_ended", job=job.id, ending=ending.value)
        if ending is not Ending.RELEASED:
            job.forget()
        return ending

    async def _ended(self, job: Job, stop: asyncio.Event) -> Ending:
        stages = asyncio.create_task(job.run(), name="stages")
        beats = asyncio.create_task(
            keep(self._api, job.id, job.lease, sleep=self._sleep, clock=self._clock), name="beats"
        )
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait({stages, beats, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if stages.done():
                return await self._finished(job, stages)
            if beats.done():
                return await self._let_go(job, stages, beats.result())
            return await self._give_back(job, stages, "the trainer is shutting down")
        finally:
            for task in (stages, beats, stopped):
                task.cancel()
            await asyncio.gather(stages, beats, stopped, return_exceptions=True)

    async def _finished(self, job: Job, stages: asyncio.Task[Completion]) -> Ending:
        try:
            done = stages.result()
        except TrainingError as exc:
            return await self._fail(job, exc.code, exc.message, exc.param)
        except Disagreement as exc:
            return await self._fail(job, "training_failed", str(exc), None)
        except (LeaseLost, JobOver) as exc:
            _log.warning("job_dropped", job=job.id, reason=str(exc))
            return Ending.DROPPED
        except GatewayAway as exc:
            _log.warning("gateway_away", job=job.id, reason=str(exc))
            return Ending.RELEASED
        _log.info("version_registered", job=job.id, version=done.version)
        return Ending.DONE

    async def _fail(self, job: Job, code: str, message: str, param: str | None) -> Ending:
        _log.warning("job_failed", job=job.id, code=code, param=param)
        try:
            await self._api.fail(job.id, job.lease.token, code, message, param)
        except (LeaseLost, JobOver):
            return Ending.DROPPED
        return Ending.FAILED

    async def _let_go(self, job: Job, stages: asyncio.Task[Completion], verdict: Verdict) -> Ending:
        _log.warning("job_let_go", job=job.id, verdict=verdict.value)
        if verdict is Verdict.PAUSE:
            return await self._give_back(job, stages, "paused")
        return Ending.RELEASED if verdict is Verdict.SILENT else Ending.DROPPED

    async def _give_back(self, job: Job, stages: asyncio.Task[Completion], reason: str) -> Ending:
        """Let the training save and stop, bring the checkpoint up, release; what fails is left to the lease's end."""
        if job.lease.process is not None:
            await job.lease.process.stop(self._settings.stop_seconds)
        stages.cancel()
        await asyncio.gather(stages, return_exceptions=True)
        try:
            await job.save_checkpoint(job.folder / "training" / "checkpoints", {})
            await self._api.release(job.id, job.lease.token, reason)
        except GatewayError as exc:
            _log.warning("release_failed", job=job.id, reason=str(exc))
        return Ending.RELEASED


async def until(stop: asyncio.Event, what: Coroutine[Any, Any, T]) -> T | None:
    """The answer, or None when told to stop before it came."""
    asked, stopped = asyncio.create_task(what), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({asked, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return asked.result() if asked.done() else None
    finally:
        asked.cancel()
        stopped.cancel()
        await asyncio.gather(asked, stopped, return_exceptions=True)
