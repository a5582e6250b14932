"""`/training/v1`: how trainers get work and hand in adapters (docs/training-api.md). Tenants' keys are not taken here.

Every write holds the job's row by the trainer's fencing token until it commits, so a trainer whose lease was lost
changes nothing. Bytes go up before they are named: a blob is private to its job until a checkpoint or a completion
commits it.
"""

from __future__ import annotations

import asyncio
from functools import reduce
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Header, Path, Request, Response

from app.api.body import streamed
from app.api.fine_tuning import artifacts, stops
from app.api.fine_tuning.guard import BlobRoute, Services, TrainerRoute
from app.api.fine_tuning.messages import (
    BeatJson,
    CheckpointJson,
    ClaimJson,
    CommandJson,
    CompletedJson,
    CompletionJson,
    EventsJson,
    FailureJson,
    LeaseJson,
    ReleaseJson,
    Sha256,
)
from app.api.fine_tuning.services import TrainingServices
from app.api.objects import ObjectResponse, respond_with
from app.errors import Conflict, InvalidRequest, NotFound
from app.observability.training import QUEUED
from app.storage.archives import judge
from app.storage.tuning import checkpoints, events, files, leases, progress, registering
from app.storage.tuning.checkpoints import Checkpoint
from app.storage.tuning.events import JobEvent
from app.storage.tuning.files import File
from app.storage.tuning.jobs import Job
from app.storage.tuning.leases import Beat, Stay, Trainer
from app.storage.tuning.progress import Progress
from app.storage.tuning.registering import Trained
from app.storage.tuning.status import Status

ASK_SECONDS = 0.5  # between two looks into the queue for a trainer that waits
router = APIRouter(prefix="/training/v1", tags=["training"], route_class=TrainerRoute)
router.include_router(stops.router)
blobs = APIRouter(prefix="/training/v1", tags=["training"], route_class=BlobRoute)
JobId = Annotated[str, Path(pattern=r"^ftjob-[A-Za-z0-9_-]{1,34}$", description="The job.")]
BlobId = Annotated[Sha256, Path()]
Token = Annotated[int, Header(alias="x-fencing-token", ge=1, le=2**62, description="The lease's token.")]
_logger = structlog.get_logger()


@router.post("/claim", response_model=None)
async def claim(body: ClaimJson, request: Request, services: Services) -> dict[str, Any] | Response:
    """Lease the oldest job that this trainer can do; 204 when none comes up in time, or the trainer has gone."""
    trainer = Trainer(body.trainer, body.bases, body.providers)
    end = asyncio.get_running_loop().time() + body.wait_seconds
    while not await request.is_disconnected():
        job = await _claim(services, trainer)
        if job is not None:
            _logger.info("job_claimed", job=job.id, tenant=job.tenant_id, trainer=trainer.name, attempt=job.attempt)
            _count_claim(services, job)
            return await _claimed(services, job)
        left = end - asyncio.get_running_loop().time()
        if left <= 0:
            break
        await asyncio.sleep(min(ASK_SECONDS, left))
    return Response(status_code=204)


@router.post("/jobs/{job_id}/heartbeat")
async def heartbeat(job_id: JobId, body: BeatJson, token: Token, services: Services) -> CommandJson:
    """Keep a lease, and hear what to do."""
    said = Beat(**body.model_dump())
    try:
        async with services.write() as connection:
            answer = await leases.beat(connection, job_id, token, said, services.terms, now=services.clock())
    except Conflict:
        services.metrics.heartbeat("refused")
        raise
    services.metrics.heartbeat(answer.command)
    _count_stay(services, answer.left)
    return CommandJson(lease=LeaseJson.of(token, services.terms), command=answer.command)


@router.post("/jobs/{job_id}/events", status_code=204)
async def add_events(job_id: JobId, body: EventsJson, token: Token, services: Services) -> None:
    """Append to a job's log; an event that comes twice is kept once."""
    async with services.write() as connection:
        job = await leases.hold(connection, job_id, token)
        await events.append(connection, job_id, [JobEvent(**event.model_dump()) for event in body.events])
        told = (progress.told_by(event.data) for event in body.events if event.type == "metrics")
        await progress.keep(connection, job_id, job.progress, reduce(Progress.and_then, told, job.progress))


@router.get("/jobs/{job_id}/files/{file_id}", status_code=200, response_class=ObjectResponse)
async def download(job_id: JobId, file_id: str, request: Request, token: Token, services: Services) -> ObjectResponse:
    """A file of the job's claim; any other is not there."""
    async with services.write() as connection:
        job = await leases.hold(connection, job_id, token)
        if file_id not in (job.training_file, job.validation_file):
            raise NotFound("The job has no such file.", param="file_id")
        file = await files.get(connection, job.tenant_id, file_id, now=files.ANY_AGE)
    return respond_with(request, services.objects, files.object_key(file), size=file.bytes, sha256=file.sha256)


@router.head("/jobs/{job_id}/blobs/{sha256}")
async def has_blob(job_id: JobId, sha256: BlobId, services: Services) -> Response:
    """200 when the job has these bytes already."""
    if await services.objects.size(_blob(job_id, sha256)) is None:
        raise NotFound("The job has no such blob.", param="sha256")
    return Response(status_code=200)


@blobs.put("/jobs/{job_id}/blobs/{sha256}", status_code=201)
async def put_blob(job_id: JobId, sha256: BlobId, request: Request, token: Token, services: Services) -> Response:
    """Keep a tar, if its bytes have this hash."""
    async with services.write() as connection:
        await leases.hold(connection, job_id, token)
    known = await services.objects.size(_blob(job_id, sha256)) is not None
    most = services.limits.max_artifact_bytes
    await services.objects.put(_owner(job_id), streamed(request), max_bytes=most, sha256=sha256, judge=judge)
    return Response(status_code=200 if known else 201)


@router.get("/jobs/{job_id}/blobs/{sha256}", status_code=200, response_class=ObjectResponse)
async def get_blob(job_id: JobId, sha256: BlobId, request: Request, token: Token, services: Services) -> ObjectResponse:
    """A committed checkpoint."""
    async with services.write() as connection:
        await leases.hold(connection, job_id, token)
        committed = await checkpoints.is_committed(connection, job_id, sha256)
    size = await services.objects.size(_blob(job_id, sha256)) if committed else None
    if size is None:
        raise NotFound("The job has no such checkpoint.", param="sha256")
    return respond_with(request, services.objects, _blob(job_id, sha256), size=size, sha256=sha256)


@router.post("/jobs/{job_id}/checkpoints", status_code=204)
async def checkpoint(job_id: JobId, body: CheckpointJson, token: Token, services: Services) -> None:
    """Commit a blob as the job's newest checkpoint; the blobs of older ones go."""
    size = await services.objects.size(_blob(job_id, body.blob))
    if size is None:
        raise InvalidRequest("blob: it has not been uploaded.", param="blob")
    made = Checkpoint(checkpoints.new_id(), job_id, body.step, services.clock(), body.blob, size, body.metrics)
    async with services.write() as connection:
        await leases.hold(connection, job_id, token)
        older = await checkpoints.commit(connection, made)
    for sha256 in older:
        await services.objects.delete(_blob(job_id, sha256))


@router.post("/jobs/{job_id}/complete")
async def complete(job_id: JobId, body: CompletionJson, token: Token, services: Services) -> CompletedJson:
    """Register what was trained and end the job; repeated, it answers the same."""
    if (known := await _done(services, job_id, body)) is not None:
        return known
    try:
        async with services.write() as connection:
            held = await leases.hold(connection, job_id, token)
        ended = await (_registered(services, held, body) if held.provider is None else _noted(services, held, body))
    except Conflict:  # the same question, asked again while the first was being answered, may have been the faster one
        if (known := await _done(services, job_id, body)) is not None:
            return known
        raise
    _logger.info("job_succeeded", job=ended.id, tenant=ended.tenant_id, version=ended.version_id)
    services.metrics.ended(ended.status)
    _count_stay(services, leases.stay(held, now=services.clock()))
    return _completed(ended)


@router.post("/jobs/{job_id}/fail", status_code=204)
async def fail(job_id: JobId, body: FailureJson, token: Token, services: Services) -> None:
    """End a job with an error; nothing of it is registered."""
    async with services.write() as connection:
        ended = await leases.fail(connection, job_id, token, body.model_dump(), now=services.clock())
    if ended:
        _logger.info("job_failed", job=job_id, code=body.code)
        services.metrics.ended(Status.FAILED, body.code)


@router.post("/jobs/{job_id}/release", status_code=204)
async def release(job_id: JobId, body: ReleaseJson, token: Token, services: Services) -> None:
    """Give a job back for another trainer, or to rest."""
    async with services.write() as connection:
        await leases.release(connection, job_id, token, now=services.clock())
    _logger.info("job_released", job=job_id, reason=body.reason)


async def _claim(services: TrainingServices, trainer: Trainer) -> Job | None:
    now = services.clock()
    async with services.read() as connection:
        if not await leases.is_waiting(connection, trainer, services.terms, now=now):
            return None
    async with services.write() as connection:
        return await leases.claim(connection, trainer, services.terms, now=now)


def _count_claim(services: TrainingServices, job: Job) -> None:
    if job.stage == leases.TAKEN_OVER:
        services.metrics.lost()
    else:
        services.metrics.left(QUEUED, services.clock() - (job.stage_since or job.created_at))


def _count_stay(services: TrainingServices, stay: Stay | None) -> None:
    if stay is not None:
        services.metrics.left(stay.stage, stay.seconds)


async def _claimed(services: TrainingServices, job: Job) -> dict[str, Any]:
    async with services.read() as connection:
        training = await files.get(connection, job.tenant_id, job.training_file, now=files.ANY_AGE)
        validation = None
        if job.validation_file is not None:
            validation = await files.get(connection, job.tenant_id, job.validation_file, now=files.ANY_AGE)
        newest = await checkpoints.newest(connection, job.id)
    kept = None if newest is None else {"step": newest.step, "sha256": newest.sha256, "bytes": newest.bytes}
    return {
        "job": {
            "id": job.id,
            "tenant": job.tenant_id,
            "name": job.name,
            "model": job.base,
            "provider": job.provider,
            "suffix": job.suffix,
            "attempt": job.attempt,
            "method": job.method,
            "seed": job.seed,
            "recipe": job.recipe,
            "created_at": int(job.created_at),
            "hyperparameters": dict(job.hyperparameters),
        },
        "files": {"training": _file(training), "validation": None if validation is None else _file(validation)},
        "lease": LeaseJson.of(job.lease_token, services.terms).model_dump(),
        "checkpoint": kept,
    }


def _file(file: File) -> dict[str, Any]:
    return {"id": file.id, "filename": file.filename, "bytes": file.bytes, "sha256": file.sha256}


async def _registered(services: TrainingServices, job: Job, body: CompletionJson) -> Job:
    if body.artifact is None or body.adapter_sha256 is None or body.manifest is None:
        message = "artifact, adapter_sha256 and manifest are required for a job of this kind."
        raise InvalidRequest(message, param="artifact", code="missing_required_parameter")
    signed_by = services.admin.signers.signer(body.adapter_sha256, body.signature)
    key = _blob(job.id, body.artifact)
    version = await artifacts.imported(services, job, key, body.adapter_sha256, body.manifest)
    trained = Trained(body.trained_tokens, version, artifacts.lineage(job, body.manifest), signed_by)
    async with services.change() as change:
        return await registering.register(change, job, trained, tuple(services.pools.values()))


async def _noted(services: TrainingServices, job: Job, body: CompletionJson) -> Job:
    if body.provider_model is None:
        message = "provider_model: is required for a job at a provider."
        raise InvalidRequest(message, param="provider_model", code="missing_required_parameter")
    async with services.change() as change:
        return await registering.register_provider_model(change, job, body.provider_model, body.trained_tokens)


async def _done(services: TrainingServices, job_id: str, body: CompletionJson) -> CompletedJson | None:
    """The answer to a completion that has taken effect already."""
    async with services.read() as connection:
        job = await leases.find(connection, job_id)
    same = body.provider_model if job.provider else body.adapter_sha256
    made = job.version_id if job.provider else job.adapter_sha256
    return _completed(job) if job.status == Status.SUCCEEDED and same is not None and same == made else None


def _completed(job: Job) -> CompletedJson:
    return CompletedJson(version=job.version_id or "", fine_tuned_model=job.fine_tuned_model or "")


def _owner(job_id: str) -> str:
    return f"jobs/{job_id}"


def _blob(job_id: str, sha256: str) -> str:
    return f"{_owner(job_id)}/{sha256}"
