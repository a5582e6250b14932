"""Fine-tuning jobs as their tenants have them: created within a budget, looked at, cancelled, paused, resumed.

A job ends once: every change is an update that asks for the status it goes out from, in the statement itself, so of a
cancellation and a completion at the same moment one takes effect and the other is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import InvalidRequest, NotFound, QuotaExhausted, RateLimited
from app.storage import outbox
from app.storage.administration.change import Page, Row
from app.storage.tables import fine_tuning_jobs as jobs
from app.storage.tuning import events
from app.storage.tuning.files import NO_RETRY
from app.storage.tuning.pages import part
from app.storage.tuning.progress import Progress
from app.storage.tuning.status import OPEN, Status
from app.storage.tuning.tenancy import lock


@dataclass(frozen=True, slots=True)
class Job:
    """A fine-tuning job. `base` is what is trained: a pool's base model, or (with `provider`) the provider's model.

    Tokens: an open job holds its estimate against the tenant's month; `charged_tokens` is what an ended one has used,
    `trained_tokens` the same as its trainer counted it. `lease_token` grows with every claim. `stage` is what its
    trainer says that it does, or how it was claimed (`leases`); `stage_since` is when that began, or its wait in the
    queue. `step` and `total_steps` are the furthest that was ever told of it (`progress`). `provider_job` is what its
    trainers find it by at its provider, as long as something of it may run there (`stops`).
    """

    id: str
    tenant_id: str
    model: str
    base: str
    pool: str | None
    provider: str | None
    name: str
    suffix: str | None
    method: str
    hyperparameters: Mapping[str, Any]
    recipe: str | None
    seed: int
    metadata: Mapping[str, str]
    training_file: str
    validation_file: str | None
    created_at: float
    estimated_tokens: int
    status: str = Status.QUEUED.value
    pause_requested: bool = False
    finished_at: float | None = None
    estimated_finish: float | None = None
    trained_tokens: int | None = None
    charged_tokens: int = 0
    error: Mapping[str, Any] | None = None
    fine_tuned_model: str | None = None
    version_id: str | None = None
    adapter_sha256: str | None = None
    lease_token: int = 0
    lease_expires_at: float | None = None
    holder: str | None = field(default=None, repr=False)
    attempt: int = 0
    stage: str | None = None
    stage_since: float | None = None
    step: int | None = None
    total_steps: int | None = None
    provider_job: str | None = None

    @property
    def progress(self) -> Progress:
        """How far its training has come."""
        return Progress(self.step, self.total_steps)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a tenant may train: jobs that have not ended, and tokens in a calendar month (UTC; None: no bound)."""

    max_open_jobs: int
    max_tokens_per_month: int | None = None


async def create(connection: AsyncConnection, job: Job, budget: Budget) -> None:
    """Queue a job; raises RateLimited or QuotaExhausted, in words, when the tenant's training budget has no room.

    Race removed: two creations that each see room for one. The tenant is locked while its sums are compared.
    """
    await lock(connection, job.tenant_id)
    mine = jobs.c.tenant_id == job.tenant_id
    counted = select(func.count()).select_from(jobs).where(mine, jobs.c.status.in_(OPEN))
    open_jobs = int(await connection.scalar(counted) or 0)
    if open_jobs >= budget.max_open_jobs:
        raise RateLimited(
            f"You have {open_jobs} fine-tuning jobs that have not ended, and {budget.max_open_jobs} are allowed. Wait"
            " for one to end, or cancel one.",
            headers=NO_RETRY,
        )
    if budget.max_tokens_per_month is not None:
        used = await tokens_of_month(connection, job.tenant_id, now=job.created_at)
        if used + job.estimated_tokens > budget.max_tokens_per_month:
            raise QuotaExhausted(
                f"Your training budget is {budget.max_tokens_per_month} tokens a month; {used} are used or held, and"
                f" this job would train about {job.estimated_tokens}. Use fewer epochs or examples, or ask your"
                " administrator."
            )
    await connection.execute(jobs.insert().values(asdict(job)))
    await events.say(connection, job.id, f"Created fine-tuning job: {job.id}", at=job.created_at)


async def tokens_of_month(connection: AsyncConnection, tenant_id: str, *, now: float) -> int:
    """What jobs that ended this month have used, and what open ones hold."""
    month = datetime.fromtimestamp(now, tz=UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()
    mine = jobs.c.tenant_id == tenant_id
    used = select(func.coalesce(func.sum(jobs.c.charged_tokens), 0)).where(mine, jobs.c.finished_at >= month)
    held = select(func.coalesce(func.sum(jobs.c.estimated_tokens), 0)).where(mine, jobs.c.status.in_(OPEN))
    return int(await connection.scalar(used) or 0) + int(await connection.scalar(held) or 0)


async def get(connection: AsyncConnection, tenant_id: str, job_id: str) -> Job:
    """The tenant's job; raises NotFound."""
    row = (await connection.execute(select(jobs).where(*_place(tenant_id, job_id)))).mappings().one_or_none()
    if row is None:
        raise missing(job_id)
    return job_of(row)


async def listing(
    connection: AsyncConnection,
    tenant_id: str,
    *,
    metadata: Mapping[str, str],
    after: str | None,
    limit: int,
) -> Page[Job]:
    """The tenant's jobs, newest first; those whose metadata has all of these pairs."""
    mine: ColumnElement[bool] = jobs.c.tenant_id == tenant_id
    for key, value in metadata.items():
        mine = and_(mine, jobs.c.metadata[key].as_string() == value)
    return await part(connection, (jobs.c.created_at, jobs.c.id), mine, job_of, after=after, limit=limit)


async def cancel(connection: AsyncConnection, tenant_id: str, job_id: str, *, now: float) -> Job:
    """End a job at once, whoever works on it; raises NotFound, or InvalidRequest when it has ended."""
    place = (*_place(tenant_id, job_id), jobs.c.status.in_(OPEN))
    values = {"status": Status.CANCELLED.value, "finished_at": now, "pause_requested": False}
    job = await _changed(connection, tenant_id, job_id, place, values, "cancelled")
    job = await charged(connection, job)
    await events.say(connection, job_id, "The job has been cancelled", at=now)
    await announce_end(connection, job, now=now)
    return job


async def pause(connection: AsyncConnection, tenant_id: str, job_id: str, *, now: float) -> Job:
    """Let a job rest: a queued one, or one whose trainer is lost, at once, a running one after its next checkpoint.

    Raises NotFound, or InvalidRequest when it has ended.
    """
    place = (*_place(tenant_id, job_id), jobs.c.status.in_(OPEN))
    job = await _changed(connection, tenant_id, job_id, place, {"pause_requested": True}, "paused")
    idle = job.status == Status.QUEUED or (job.status == Status.RUNNING and (job.lease_expires_at or 0) < now)
    if idle:
        values = {"status": Status.PAUSED.value, "holder": None, "lease_expires_at": None}
        job = await _changed(connection, tenant_id, job_id, place, values, "paused")
        await events.say(connection, job_id, "The job is paused", at=now)
    return job


async def resume(connection: AsyncConnection, tenant_id: str, job_id: str, *, now: float) -> Job:
    """Let a paused job go on; raises NotFound, or InvalidRequest when it is not paused, nor about to be."""
    place = (*_place(tenant_id, job_id), jobs.c.pause_requested, jobs.c.status.in_(OPEN))
    job = await _changed(connection, tenant_id, job_id, place, {"pause_requested": False}, "resumed")
    if job.status == Status.PAUSED:
        values = {"status": Status.QUEUED.value, "stage": None, "stage_since": now}
        job = await _changed(connection, tenant_id, job_id, _place(tenant_id, job_id), values, "resumed")
    await events.say(connection, job_id, "The job is resumed", at=now)
    return job


async def charged(connection: AsyncConnection, job: Job) -> Job:
    """Charge an ended job: what its trainer counted, else the largest share of its estimate that it ever came to.

    That is the whole estimate where training had begun and nobody told how far it was: usage is never free.
    """
    used = job.trained_tokens
    if used is None:
        used = round(job.estimated_tokens * job.progress.share)
    values = {"charged_tokens": used, "estimated_finish": None}
    changed = update(jobs).where(jobs.c.id == job.id).values(values).returning(*jobs.c)
    return job_of((await connection.execute(changed)).mappings().one())


async def announce_end(connection: AsyncConnection, job: Job, *, now: float) -> None:
    """Tell the tenant's webhooks how the job has ended."""
    kind = f"fine_tuning.job.{job.status}"
    await outbox.announce(
        connection, job.tenant_id, outbox.Event.of(job.tenant_id, job.id, kind, {"id": job.id}, at=now)
    )


def missing(job_id: str) -> NotFound:
    """The refusal of a job that is not there, or is another tenant's."""
    return NotFound(f"Could not find fine tune: {job_id}", param="fine_tuning_job_id", code="fine_tune_not_found")


def job_of(row: Row) -> Job:
    """A row as a value."""
    return Job(**{name: row[name] for name in Job.__dataclass_fields__})


def _place(tenant_id: str, job_id: str) -> tuple[ColumnElement[bool], ...]:
    return (jobs.c.tenant_id == tenant_id, jobs.c.id == job_id)


async def _changed(
    connection: AsyncConnection,
    tenant_id: str,
    job_id: str,
    place: tuple[ColumnElement[bool], ...],
    values: dict[str, Any],
    done: str,
) -> Job:
    changed = update(jobs).where(*place).values(values).returning(*jobs.c)
    row = (await connection.execute(changed)).mappings().one_or_none()
    if row is None:
        found = await get(connection, tenant_id, job_id)
        raise InvalidRequest(f"The job is {found.status} and cannot be {done}.", param="fine_tuning_job_id")
    return job_of(row)
