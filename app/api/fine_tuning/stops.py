"""What trainers stop at providers: jobs that have ended here and may still run there (docs/training-api.md)."""

from __future__ import annotations

from typing import Annotated

import structlog
from fastapi import APIRouter, Header, Path, Response
from pydantic import BaseModel

from app.api.fine_tuning.guard import Services, TrainerRoute
from app.api.fine_tuning.messages import LeaseJson, StopClaimJson
from app.storage.tuning import stops
from app.storage.tuning.leases import Trainer

router = APIRouter(route_class=TrainerRoute)
JobId = Annotated[str, Path(pattern=r"^ftjob-[A-Za-z0-9_-]{1,34}$", description="The job.")]
Token = Annotated[int, Header(alias="x-fencing-token", ge=1, le=2**62, description="The lease's token.")]
_logger = structlog.get_logger()


class StopJson(BaseModel):
    """A job to stop."""

    job: str
    provider: str
    provider_job: str
    lease: LeaseJson


@router.post("/stops/claim", response_model=None)
async def claim(body: StopClaimJson, services: Services) -> StopJson | Response:
    """Lease a job that is to be stopped at one of these providers; 204 when there is none."""
    trainer, now = Trainer(body.trainer, (), body.providers), services.clock()
    async with services.read() as connection:
        if not await stops.is_waiting(connection, trainer, now=now):
            return Response(status_code=204)
    async with services.write() as connection:
        stop = await stops.claim(connection, trainer, services.terms, now=now)
    if stop is None:
        return Response(status_code=204)
    _logger.info("job_stop_claimed", job=stop.job_id, provider=stop.provider, trainer=trainer.name)
    lease = LeaseJson.of(stop.token, services.terms)
    return StopJson(job=stop.job_id, provider=stop.provider, provider_job=stop.provider_job, lease=lease)


@router.post("/jobs/{job_id}/stopped", status_code=204)
async def stopped(job_id: JobId, token: Token, services: Services) -> None:
    """Say that nothing runs at the provider for a job that has ended; repeated, it answers the same."""
    async with services.write() as connection:
        first = await stops.done(connection, job_id, token, now=services.clock())
    if first:
        _logger.info("job_stopped", job=job_id)
