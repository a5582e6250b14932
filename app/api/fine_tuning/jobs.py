"""`/v1/fine_tuning/jobs`: fine-tuning in OpenAI's shape; the base model decides who trains."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from app.api.admin.fields import PRINTABLE
from app.api.fine_tuning.bases import Base, base_of
from app.api.fine_tuning.guard import Caller, Services, TuningRoute
from app.api.fine_tuning.requests import AUTO, MAX_SEED, NewJob, is_text
from app.errors import InvalidRequest, NotFound
from app.storage.administration.change import outage
from app.storage.tuning import checkpoints, events, files, jobs
from app.storage.tuning.checkpoints import Checkpoint
from app.storage.tuning.events import JobEvent
from app.storage.tuning.files import File
from app.storage.tuning.jobs import Job
from app.storage.tuning.registering import slug
from app.storage.tuning.tenancy import lock

USUAL_EPOCHS = 3  # what an estimate takes `auto` for
BYTES_PER_TOKEN = 4
router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], route_class=TuningRoute)
JobId = Annotated[str, Path(pattern=r"^ftjob-[A-Za-z0-9_-]{1,34}$", description="The job.")]
After = Annotated[str | None, Query(max_length=64, pattern=PRINTABLE, description="The last id of the part before.")]
Limit = Annotated[int, Query(ge=1, le=100, description="Items in this part.")]
_logger = structlog.get_logger()


class JobJson(BaseModel):
    """A job in OpenAI's shape."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    status: str
    error: dict[str, Any] | None
    model: str
    fine_tuned_model: str | None
    trained_tokens: int | None
    training_file: str
    validation_file: str | None
    result_files: list[str] = Field(default_factory=list)
    seed: int
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    user_provided_suffix: str | None
    metadata: dict[str, str]
    organization_id: str
    integrations: list[dict[str, Any]] = Field(default_factory=list)

    @classmethod
    def of(cls, job: Job) -> JobJson:
        """The same as JSON."""
        chosen = dict(job.hyperparameters)
        return cls(
            id=job.id,
            created_at=int(job.created_at),
            finished_at=_instant(job.finished_at),
            estimated_finish=_instant(job.estimated_finish),
            status=job.status,
            error=None if job.error is None else dict(job.error),
            model=job.model,
            fine_tuned_model=job.fine_tuned_model,
            trained_tokens=job.trained_tokens,
            training_file=job.training_file,
            validation_file=job.validation_file,
            seed=job.seed,
            hyperparameters=chosen,
            method={"type": job.method, job.method: {"hyperparameters": chosen}},
            user_provided_suffix=job.suffix,
            metadata=dict(job.metadata),
            organization_id=job.tenant_id,
        )


class EventJson(BaseModel):
    """A line of a job's log in OpenAI's shape."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: str
    type: str
    message: str
    data: dict[str, Any]

    @classmethod
    def of(cls, event: JobEvent) -> EventJson:
        """The same as JSON."""
        fields = {"id": event.id, "level": event.level, "type": event.type, "message": event.message}
        return cls(**fields, created_at=int(event.created_at), data=dict(event.data or {}))


class CheckpointJson(BaseModel):
    """A checkpoint in OpenAI's shape; its model name is for reading, a checkpoint is not served."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str
    step_number: int
    metrics: dict[str, Any]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> CheckpointJson:
        """The same as JSON."""
        return cls(
            id=checkpoint.id,
            created_at=int(checkpoint.created_at),
            fine_tuning_job_id=checkpoint.job_id,
            fine_tuned_model_checkpoint=f"{checkpoint.job_id}:ckpt-step-{checkpoint.step}",
            step_number=checkpoint.step,
            metrics=dict(checkpoint.metrics),
        )


class JobsPage(BaseModel):
    """A part of the listing."""

    object: Literal["list"] = "list"
    data: list[JobJson]
    has_more: bool


class EventsPage(BaseModel):
    """A part of a job's log."""

    object: Literal["list"] = "list"
    data: list[EventJson]
    has_more: bool


class CheckpointsPage(BaseModel):
    """A part of a job's checkpoints."""

    object: Literal["list"] = "list"
    data: list[CheckpointJson]
    has_more: bool
    first_id: str | None
    last_id: str | None


@router.post("")
async def create(body: NewJob, caller: Caller, services: Services) -> JobJson:
    """Queue a job on a base model of this gateway, with a training file that was uploaded with purpose fine-tune."""
    if body.kind != "supervised":
        raise InvalidRequest("method.type: only supervised is offered here.", param="method.type")
    base = base_of(services, caller, body.model)
    now = services.clock()
    async with services.write() as connection:
        await lock(connection, caller.tenant_id)  # no deletion of a file can come between
        training = await _file(connection, caller.tenant_id, body.training_file, "training_file", now)
        if body.validation_file is not None:
            await _file(connection, caller.tenant_id, body.validation_file, "validation_file", now)
        job = _job(body, base, caller.tenant_id, training.bytes, now)
        await jobs.create(connection, job, services.budget(caller.tenant_id))
    _logger.info("job_created", tenant=job.tenant_id, job=job.id, base=job.base, provider=job.provider)
    return JobJson.of(job)


@router.get("")
async def listing(
    request: Request, caller: Caller, services: Services, after: After = None, limit: Limit = 20
) -> JobsPage:
    """The tenant's jobs, newest first; `metadata[key]=value` keeps those that have the pair."""
    async with services.read() as connection:
        page = await jobs.listing(
            connection, caller.tenant_id, metadata=_pairs(request.query_params), after=after, limit=limit
        )
    return JobsPage(data=[JobJson.of(job) for job in page.items], has_more=page.has_more)


@router.get("/{job_id}")
async def get(job_id: JobId, caller: Caller, services: Services) -> JobJson:
    """One job; a fine-tuned model that is shown here can be called at once."""
    async with services.read() as connection:
        job = await jobs.get(connection, caller.tenant_id, job_id)
    if job.fine_tuned_model and services.policy().route(caller.tenant_id, job.fine_tuned_model) is None:
        with outage():
            await services.refresh()
    return JobJson.of(job)


@router.post("/{job_id}/cancel")
async def cancel(job_id: JobId, caller: Caller, services: Services) -> JobJson:
    """End a job; its trainer stops at the next heartbeat."""
    async with services.write() as connection:
        job = await jobs.cancel(connection, caller.tenant_id, job_id, now=services.clock())
    _logger.info("job_cancelled", tenant=job.tenant_id, job=job.id)
    services.metrics.ended(job.status)
    return JobJson.of(job)


@router.post("/{job_id}/pause")
async def pause(job_id: JobId, caller: Caller, services: Services) -> JobJson:
    """Let a job rest; a running one saves a checkpoint first and is `paused` then."""
    async with services.write() as connection:
        return JobJson.of(await jobs.pause(connection, caller.tenant_id, job_id, now=services.clock()))


@router.post("/{job_id}/resume")
async def resume(job_id: JobId, caller: Caller, services: Services) -> JobJson:
    """Let a paused job go on from its last checkpoint."""
    async with services.write() as connection:
        return JobJson.of(await jobs.resume(connection, caller.tenant_id, job_id, now=services.clock()))


@router.get("/{job_id}/events")
async def list_events(
    job_id: JobId, caller: Caller, services: Services, after: After = None, limit: Limit = 20
) -> EventsPage:
    """A job's log, newest first."""
    async with services.read() as connection:
        await jobs.get(connection, caller.tenant_id, job_id)
        page = await events.listing(connection, job_id, after=after, limit=limit)
    return EventsPage(data=[EventJson.of(event) for event in page.items], has_more=page.has_more)


@router.get("/{job_id}/checkpoints")
async def list_checkpoints(
    job_id: JobId, caller: Caller, services: Services, after: After = None, limit: Limit = 10
) -> CheckpointsPage:
    """A job's checkpoints, newest first."""
    async with services.read() as connection:
        await jobs.get(connection, caller.tenant_id, job_id)
        page = await checkpoints.listing(connection, job_id, after=after, limit=limit)
    data = [CheckpointJson.of(checkpoint) for checkpoint in page.items]
    ends = (data[0].id, data[-1].id) if data else (None, None)
    return CheckpointsPage(data=data, has_more=page.has_more, first_id=ends[0], last_id=ends[1])


def estimated_tokens(file_bytes: int, hyperparameters: Mapping[str, Any]) -> int:
    """About how many tokens a job trains: what its budget holds until its trainer has counted them."""
    epochs = hyperparameters.get("n_epochs", AUTO)
    return file_bytes // BYTES_PER_TOKEN * (USUAL_EPOCHS if epochs == AUTO else int(epochs))


def _job(body: NewJob, base: Base, tenant_id: str, file_bytes: int, now: float) -> Job:
    job_id = f"ftjob-{secrets.token_hex(12)}"
    return Job(
        id=job_id,
        tenant_id=tenant_id,
        model=body.model,
        base=base.model,
        pool=base.pool,
        provider=base.provider,
        name=slug(body.suffix or "", f"ft-{job_id.removeprefix('ftjob-')[:12]}"),
        suffix=body.suffix,
        method=body.kind,
        hyperparameters=body.chosen,
        recipe=body.recipe,
        seed=secrets.randbelow(MAX_SEED) if body.seed is None else body.seed,
        metadata=body.metadata or {},
        training_file=body.training_file,
        validation_file=body.validation_file,
        created_at=now,
        estimated_tokens=estimated_tokens(file_bytes, body.chosen),
    )


async def _file(connection: AsyncConnection, tenant_id: str, file_id: str, field: str, now: float) -> File:
    """The tenant's file for training; an unknown one and another tenant's are refused alike."""
    try:
        file = await files.get(connection, tenant_id, file_id, now=now)
    except NotFound as exc:
        message = f"{field}: no such file; upload it first (POST /v1/files)."
        raise InvalidRequest(message, param=field, code="file_not_found") from exc
    if file.purpose != "fine-tune":
        raise InvalidRequest(f"{field}: it was uploaded with another purpose than fine-tune.", param=field)
    return file


def _pairs(query: Mapping[str, str]) -> dict[str, str]:
    pairs = {key[9:-1]: value for key, value in query.items() if key.startswith("metadata[") and key.endswith("]")}
    if not all(is_text(part) for pair in pairs.items() for part in pair):
        raise InvalidRequest("metadata: expected text without null characters.", param="metadata")
    return pairs


def _instant(at: float | None) -> int | None:
    return None if at is None else int(at)
