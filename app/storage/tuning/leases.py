"""Who works on a job: claims, heartbeats and the fence (docs/training-api.md).

A claim is one statement, so of any number of trainers that ask at once exactly one gets a job. Each claim raises the
job's token, and every write of a trainer begins with `hold`: an update that asks for the token and for the status, and
so keeps the job's row until the write commits. A trainer whose lease was lost can therefore change nothing, whatever it
believes and whatever its clock says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, case, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import Conflict, GatewayError
from app.storage.administration.change import Row
from app.storage.tables import fine_tuning_jobs as jobs
from app.storage.tables import tenants
from app.storage.tuning import events
from app.storage.tuning.files import NO_RETRY
from app.storage.tuning.jobs import Job, announce_end, charged, job_of, missing
from app.storage.tuning.progress import BEGUN, Progress
from app.storage.tuning.status import OPEN, Status

CONTINUE, PAUSE, CANCEL = "continue", "pause", "cancel"
TRAINER_LOST = "trainer_lost"  # the error code of a job that was given up
TRAIN, TRAINED = "train", ("servable", "register")  # stages of a beat: what of its training they say
CLAIMED, TAKEN_OVER = "claimed", "taken_over"  # a job's stage until its trainer says one: from the queue, or as below


@dataclass(frozen=True, slots=True)
class Trainer:
    """Who asks for work: its name, the base models it can train, the providers whose jobs it can run."""

    name: str
    bases: Sequence[str]
    providers: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a lease lasts, and how many of one job may run out before it is given up."""

    lease_seconds: float
    max_attempts: int

    @property
    def heartbeat_seconds(self) -> float:
        """How often a trainer shall say that it lives."""
        return self.lease_seconds / 4


@dataclass(frozen=True, slots=True)
class Stay:
    """How long a job was in a stage that it has left for the next."""

    stage: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a trainer hears, and the stage that the job has left if it told of a new one."""

    command: str
    left: Stay | None = None


@dataclass(frozen=True, slots=True)
class Expired:
    """How many jobs a sweep has ended, and how many leases it found that were not given back."""

    failed: int
    cancelled: int
    lost: int


@dataclass(frozen=True, slots=True)
class Beat:
    """What a trainer says with a heartbeat."""

    stage: str
    step: int | None = None
    total_steps: int | None = None
    seconds_left: float | None = None
    provider_job: str | None = None


async def claim(connection: AsyncConnection, trainer: Trainer, terms: Terms, *, now: float) -> Job | None:
    """Lease the oldest runnable job that this trainer can do, its own unfinished one first; None when there is none.

    The job's stage says whether it came from the queue (`CLAIMED`, then `stage_since` is when its wait began) or from a
    trainer that did not give it back (`TAKEN_OVER`), which is so of a trainer that was restarted, too.
    """
    mine = and_(jobs.c.status == Status.RUNNING, jobs.c.holder == trainer.name)
    first = case((mine, 0), else_=1)
    found = select(jobs.c.id).where(_runnable(trainer, terms, now)).order_by(first, jobs.c.created_at, jobs.c.id)
    chosen = found.limit(1).with_for_update(skip_locked=True).scalar_subquery()
    values = {
        "status": Status.RUNNING.value,
        "holder": trainer.name,
        "lease_token": jobs.c.lease_token + 1,
        "lease_expires_at": now + terms.lease_seconds,
        "attempt": jobs.c.attempt + 1,
        "stage": case((jobs.c.status == Status.QUEUED, CLAIMED), else_=TAKEN_OVER),
        "estimated_finish": None,
    }
    claimed = update(jobs).where(jobs.c.id == chosen).values(values).returning(*jobs.c)
    row = (await connection.execute(claimed)).mappings().one_or_none()
    if row is None:
        return None
    again = "" if row["attempt"] == 1 else f", attempt {row['attempt']} of {terms.max_attempts}"
    await events.say(connection, row["id"], f"Fine-tuning job started{again}", at=now)
    return job_of(row)


async def is_waiting(connection: AsyncConnection, trainer: Trainer, terms: Terms, *, now: float) -> bool:
    """Whether there may be a job to claim: a look that locks nothing, for trainers that ask again and again."""
    return await connection.scalar(select(jobs.c.id).where(_runnable(trainer, terms, now)).limit(1)) is not None


async def hold(connection: AsyncConnection, job_id: str, token: int) -> Job:
    """The job, for its lease's holder only, kept until the transaction ends.

    Raises NotFound, or Conflict with the code `job_finished` or `lease_lost`.
    """
    held = update(jobs).where(*_held(job_id, token)).values(lease_token=token).returning(*jobs.c)
    row = (await connection.execute(held)).mappings().one_or_none()
    if row is None:
        raise await refusal(connection, job_id)
    return job_of(row)


async def beat(connection: AsyncConnection, job_id: str, token: int, said: Beat, terms: Terms, *, now: float) -> Answer:
    """Keep a lease, also one that has run out while nobody else claimed; returns what the trainer shall do."""
    held = update(jobs).where(*_held(job_id, token)).values(lease_token=token).returning(*jobs.c)
    row = (await connection.execute(held)).mappings().one_or_none()
    if row is None:
        known = await _row(connection, job_id)
        if known is not None and known["status"] == Status.CANCELLED and known["lease_token"] == token:
            return Answer(CANCEL)
        raise await refusal(connection, job_id)
    job, left = job_of(row), said.seconds_left
    reached = job.progress.and_then(_told(job, said))
    values = {
        "lease_expires_at": now + terms.lease_seconds,
        "stage": said.stage,
        "stage_since": job.stage_since if job.stage == said.stage else now,
        "step": reached.step,
        "total_steps": reached.total_steps,
        "provider_job": said.provider_job or job.provider_job,
        "estimated_finish": None if left is None else now + left,
    }
    await connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))
    return Answer(PAUSE if job.pause_requested else CONTINUE, None if job.stage == said.stage else stay(job, now=now))


def _told(job: Job, said: Beat) -> Progress:
    """The progress in a beat.

    Without figures our own training has taken no step before it has ended, for a base may load for minutes; what a
    provider does is work from its first moment.
    """
    worked = said.stage in TRAINED or (said.stage == TRAIN and job.provider is not None)
    return BEGUN if said.step is None and worked else Progress(said.step, said.total_steps)


def stay(job: Job, *, now: float) -> Stay | None:
    """How long a job has been in its stage; None where that was not kept."""
    return None if job.stage is None or job.stage_since is None else Stay(job.stage, now - job.stage_since)


async def release(connection: AsyncConnection, job_id: str, token: int, *, now: float) -> None:
    """Give a job back without loss of an attempt: queued again, or paused if that was asked for. Idempotent."""
    values = {
        "status": case((jobs.c.pause_requested, Status.PAUSED.value), else_=Status.QUEUED.value),
        "holder": None,
        "lease_expires_at": None,
        "estimated_finish": None,
        "stage": None,
        "stage_since": now,
        "attempt": jobs.c.attempt - 1,
    }
    given = update(jobs).where(*_held(job_id, token)).values(values).returning(jobs.c.status)
    status = await connection.scalar(given)
    if status is not None:
        word = "paused" if status == Status.PAUSED else "waiting for a trainer again"
        await events.say(connection, job_id, f"The job is {word}", at=now)
        return
    row = await _row(connection, job_id)
    given_back = (Status.QUEUED.value, Status.PAUSED.value)
    if row is None or row["lease_token"] != token or row["status"] not in given_back:
        raise await refusal(connection, job_id)


async def fail(connection: AsyncConnection, job_id: str, token: int, error: Mapping[str, Any], *, now: float) -> bool:
    """End a job with an error for its tenant; returns False when it had ended so already."""
    values = {"status": Status.FAILED.value, "error": dict(error), **_ended(now)}
    failed = update(jobs).where(*_held(job_id, token)).values(values).returning(*jobs.c)
    row = (await connection.execute(failed)).mappings().one_or_none()
    if row is not None:
        await _told_of_failure(connection, job_of(row), now)
        return True
    known = await _row(connection, job_id)
    if known is None or known["lease_token"] != token or known["status"] != Status.FAILED:
        raise await refusal(connection, job_id)
    return False


async def succeed(connection: AsyncConnection, job: Job, result: Mapping[str, Any], *, now: float) -> Job:
    """End a held job with what came of it; registering that is the caller's, in the same transaction."""
    values = {"status": Status.SUCCEEDED.value, "provider_job": None, **result, **_ended(now)}
    done = update(jobs).where(*_held(job.id, job.lease_token)).values(values).returning(*jobs.c)
    row = (await connection.execute(done)).mappings().one_or_none()
    if row is None:
        raise await refusal(connection, job.id)
    ended = await charged(connection, job_of(row))
    await events.say(connection, job.id, f"New fine-tuned model created: {ended.fine_tuned_model}", at=now)
    await events.say(connection, job.id, "The job has successfully completed", at=now)
    await announce_end(connection, ended, now=now)
    return ended


async def expire(connection: AsyncConnection, terms: Terms, *, now: float) -> Expired:
    """Pause, or fail for good, jobs whose trainers are lost, and end those of deleted tenants.

    A job is given up a whole lease after its last one ran out, for a late heartbeat still counts until then.
    """
    ended = {"status": Status.CANCELLED.value, **_ended(now)}
    cancelled = await connection.execute(update(jobs).where(jobs.c.status.in_(OPEN), ~_owned()).values(ended))
    out = and_(jobs.c.status == Status.RUNNING, jobs.c.lease_expires_at < now)
    rest = {"status": Status.PAUSED.value, "holder": None, "lease_expires_at": None}
    paused = await connection.execute(update(jobs).where(out, jobs.c.pause_requested).values(rest))
    long_out = and_(out, jobs.c.lease_expires_at < now - terms.lease_seconds, jobs.c.attempt >= terms.max_attempts)
    error = {
        "code": TRAINER_LOST,
        "message": f"The trainers of this job were lost {terms.max_attempts} times; create the job again.",
        "param": None,
    }
    values = {"status": Status.FAILED.value, "error": error, **_ended(now)}
    given_up = update(jobs).where(long_out).values(values).returning(*jobs.c)
    rows = (await connection.execute(given_up)).mappings().all()
    for row in rows:
        await _told_of_failure(connection, job_of(row), now)
    return Expired(failed=len(rows), cancelled=cancelled.rowcount, lost=paused.rowcount + len(rows))


async def find(connection: AsyncConnection, job_id: str) -> Job:
    """A job whoever's it is, for the training API; raises NotFound."""
    row = await _row(connection, job_id)
    if row is None:
        raise missing(job_id)
    return job_of(row)


async def refusal(connection: AsyncConnection, job_id: str) -> GatewayError:
    """Why a trainer may not write: the job is gone, has ended, or is somebody else's."""
    row = await _row(connection, job_id)
    if row is None:
        return missing(job_id)
    if row["status"] not in OPEN:
        return Conflict(f"The job is {row['status']}.", code="job_finished", headers=NO_RETRY)
    return Conflict("The lease of this job is not yours any more.", code="lease_lost", headers=NO_RETRY)


def _runnable(trainer: Trainer, terms: Terms, now: float) -> ColumnElement[bool]:
    lost = or_(jobs.c.lease_expires_at < now, jobs.c.holder == trainer.name)
    taken = and_(jobs.c.status == Status.RUNNING, ~jobs.c.pause_requested, lost, jobs.c.attempt < terms.max_attempts)
    possible = or_(
        and_(jobs.c.provider.is_(None), jobs.c.base.in_(trainer.bases)), jobs.c.provider.in_(trainer.providers)
    )
    return and_(or_(jobs.c.status == Status.QUEUED, taken), possible, _owned())


def _owned() -> ColumnElement[bool]:
    return select(tenants.c.id).where(tenants.c.id == jobs.c.tenant_id, ~tenants.c.deleted).exists()


def _held(job_id: str, token: int) -> tuple[ColumnElement[bool], ...]:
    return (jobs.c.id == job_id, jobs.c.lease_token == token, jobs.c.status == Status.RUNNING)


def _ended(now: float) -> dict[str, Any]:
    return {"finished_at": now, "pause_requested": False, "lease_expires_at": None}


async def _told_of_failure(connection: AsyncConnection, job: Job, now: float) -> None:
    ended = await charged(connection, job)
    message = str((ended.error or {}).get("message", ""))[:3900]
    await events.say(connection, job.id, f"The job failed: {message}", at=now, level="error")
    await announce_end(connection, ended, now=now)


async def _row(connection: AsyncConnection, job_id: str) -> Row | None:
    return (await connection.execute(select(jobs).where(jobs.c.id == job_id))).mappings().one_or_none()
