"""The trainer's loop: ask for a job, do it under its lease, ask again; and every way in which a job can end.

How it ends decides what is told and what is kept. Done, failed, cancelled, lost: the folder goes. Stopped, paused,
silent: the newest checkpoint is brought up if it can be, the job is given back, the folder stays for the next claim, or
until the job is over (`leftovers`). An error that nobody foresaw fails the job, since the next trainer would meet it
too. One of the operating system ends the trainer instead (its supervisor starts it anew, the lease runs out, the
gateway counts the attempt), since the next job would meet it too.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any, TypeVar

import structlog

from adapters.gateway import (
    Claim,
    Completion,
    Disagreement,
    GatewayAway,
    JobOver,
    LeaseLost,
    NotTaken,
    TrainerRefused,
    TrainingApi,
)
from adapters.training.disk import full, says_full
from adapters.training.errors import TrainingError
from adapters.worker.job import Job
from adapters.worker.lease import Clock, HeldLease, Sleep, Verdict, keep
from adapters.worker.leftovers import Leftovers
from adapters.worker.settings import TrainerSettings
from adapters.worker.stops import Stops

_log = structlog.get_logger(__name__)
_AWAY_SECONDS = 5.0
_TIDY_SECONDS = 60.0
_REGISTER_SECONDS = 60.0
_PLACES = 3  # of a traceback, innermost last
T = TypeVar("T")


class Ending(StrEnum):
    """How a job ended for this trainer."""

    DONE = "done"
    FAILED = "failed"
    OVER = "over"
    LOST = "lost"
    RELEASED = "released"
    LEFT = "left"  # not given back: the lease runs out, or this trainer claims it again, and the attempt counts


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
        self._leftovers = Leftovers(api, settings.work)
        self._stops = Stops(api, settings, sleep=sleep)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop; TrainerRefused ends it, a gateway that is away does not."""
        tidied: float | None = None
        while not stop.is_set():
            if tidied is None or self._clock() - tidied >= _TIDY_SECONDS:
                await until(stop, self._tidy())
                tidied = self._clock()
            try:
                claim = await until(stop, self._claim())
            except GatewayAway as exc:
                _log.warning("gateway_away", reason=str(exc))
                await until(stop, self._sleep(_AWAY_SECONDS))
                continue
            if claim is not None:
                if await self.work(claim, stop) is Ending.LEFT:
                    await until(stop, self._sleep(_AWAY_SECONDS))
            elif not stop.is_set():
                await until(stop, self._sleep(1.0))

    async def _tidy(self) -> None:
        await self._leftovers.tidy()
        await self._stops.look()

    async def _claim(self) -> Claim | None:
        own = self._settings
        return await self._api.claim(own.name, tuple(own.bases), own.poll_seconds, tuple(own.providers))

    async def work(self, claim: Claim, stop: asyncio.Event) -> Ending:
        """Do one job to whatever end it comes."""
        job = Job(self._api, self._settings, claim, HeldLease(claim.lease), self._sleep)
        _log.info("job_claimed", job=job.id, tenant=claim.job.tenant, base=claim.job.model, attempt=claim.job.attempt)
        self._leftovers.mark(claim)
        ending = await self._ended(job, stop)
        _log.info("job_ended", job=job.id, ending=ending.value)
        provider, provider_job = claim.job.provider, job.lease.provider_job
        if ending in (Ending.FAILED, Ending.OVER) and provider is not None and provider_job is not None:
            await self._stops.end(job.id, job.lease.token, provider, provider_job)
        if ending not in (Ending.RELEASED, Ending.LEFT):
            await self._leftovers.remove(job.id)
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
                return await self._let_go(job, stages, beats)
            return await self._give_back(job, stages, "the trainer is shutting down")
        finally:
            for task in (stages, beats, stopped):
                task.cancel()
            await asyncio.gather(stages, beats, stopped, return_exceptions=True)

    async def _finished(self, job: Job, stages: asyncio.Task[Completion]) -> Ending:
        try:
            done = stages.result()
        except TrainingError as exc:
            return await self._fail(job, exc)
        except Disagreement as exc:
            return await self._fail(job, TrainingError(str(exc)))
        except (LeaseLost, JobOver) as exc:
            return _dropped(job, exc)
        except NotTaken as exc:
            _log.error("job_left", job=job.id, reason=str(exc))
            return Ending.LEFT
        except GatewayAway as exc:
            _log.warning("gateway_away", job=job.id, reason=str(exc))
            return await self._give_back(job, stages, "the gateway was away")
        except TrainerRefused:
            raise
        except OSError as exc:
            if not says_full(exc):
                raise
            return await self._fail(job, full(self._settings.work))
        except Exception as exc:  # noqa: BLE001  # the job's error, whatever it is: the next trainer would meet it too
            return await self._fail(job, _unforeseen(job, exc))
        _log.info("version_registered", job=job.id, version=done.version)
        return Ending.DONE

    async def _fail(self, job: Job, error: TrainingError) -> Ending:
        _log.warning("job_failed", job=job.id, code=error.code, param=error.param)
        try:
            await self._api.fail(job.id, job.lease.token, error.code, error.message, error.param)
        except (LeaseLost, JobOver) as exc:
            return _dropped(job, exc)
        except (GatewayAway, Disagreement) as exc:
            _log.error("job_left", job=job.id, reason=str(exc))
            return Ending.LEFT
        return Ending.FAILED

    async def _let_go(self, job: Job, stages: asyncio.Task[Completion], beats: asyncio.Task[Verdict]) -> Ending:
        try:
            verdict = beats.result()
        except Disagreement as exc:
            return await self._fail(job, TrainingError(str(exc)))
        if verdict is Verdict.OVER and job.lease.stage == "register":  # by this trainer's own word, perhaps
            await asyncio.wait({stages}, timeout=_REGISTER_SECONDS)
            if stages.done():
                return await self._finished(job, stages)
        _log.warning("job_let_go", job=job.id, verdict=verdict.value)
        match verdict:
            case Verdict.PAUSE:
                return await self._give_back(job, stages, "paused")
            case Verdict.SILENT:
                return await self._give_back(job, stages, "the gateway was away")
            case Verdict.LOST:
                return Ending.LOST
            case Verdict.OVER | Verdict.CANCEL:
                return Ending.OVER

    async def _give_back(self, job: Job, stages: asyncio.Task[Completion], reason: str) -> Ending:
        """Let the training save and stop, bring the checkpoint up, release; what fails is left to the lease's end."""
        self._api.hasten()
        if job.lease.process is not None:
            await job.lease.process.stop(self._settings.stop_seconds)
        stages.cancel()
        await asyncio.gather(stages, return_exceptions=True)
        try:
            await _saved(job)
            await self._api.release(job.id, job.lease.token, reason)
        except (LeaseLost, JobOver) as exc:
            return _dropped(job, exc)
        except (GatewayAway, Disagreement) as exc:
            _log.warning("release_failed", job=job.id, reason=str(exc))
            return Ending.LEFT
        return Ending.RELEASED


async def _saved(job: Job) -> None:
    """Bring the newest checkpoint up; without it, the job goes on from the one before."""
    try:
        await job.save_checkpoint(job.folder / "training" / "checkpoints", {})
    except (GatewayAway, Disagreement, OSError) as exc:
        _log.warning("checkpoint_not_saved", job=job.id, reason=str(exc))


def _dropped(job: Job, exc: LeaseLost | JobOver) -> Ending:
    _log.warning("job_dropped", job=job.id, reason=str(exc))
    return Ending.OVER if isinstance(exc, JobOver) else Ending.LOST


def _unforeseen(job: Job, exc: Exception) -> TrainingError:
    """What the tenant reads of a defect of ours; the log has its places, and neither has its text, which may quote."""
    stage, kind = job.lease.stage, type(exc).__name__
    places = [f"{at.filename}:{at.lineno} {at.name}" for at in traceback.extract_tb(exc.__traceback__)[-_PLACES:]]
    _log.error("job_met_a_defect", job=job.id, stage=stage, error=kind, places=places)
    return TrainingError(
        f"the trainer met an error that it does not know ({kind}, at `{stage}`); its log says where: tell its operator"
    )


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
