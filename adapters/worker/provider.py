"""A claimed job on a provider's model: its files go there, it is started once, followed, and its model named.

The lease is an ordinary one, and the job at the provider is known by the gateway's job id: a trainer that takes over,
on whatever machine, finds the files by their hash and the job by its key, so nothing is uploaded or started twice. When
the job ends here first, as by a cancellation, it is cancelled there; a pause only stops the following, for the
provider's own work goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from adapters.gateway import Completion, JobOver, JobSpec
from adapters.gateway import Event as JobEvent
from adapters.training.errors import BaseNotFound
from adapters.training.provider_jobs.job import follow, result, start
from adapters.training.provider_jobs.journal import JobRequest, Journal
from adapters.training.provider_jobs.provider import Event, Provider
from adapters.worker.settings import ProviderSettings

if TYPE_CHECKING:
    from adapters.worker.job import Job


async def at_provider(job: Job, name: str) -> Completion:
    """Do the job there; TrainingError is for the tenant, a GatewayError for us."""
    where = job.settings.providers.get(name)
    if where is None:
        raise BaseNotFound(f"model: {name} is not a provider of this trainer", param="model")
    job.lease.at("prepare")
    files = job.claim.files
    training = await job.fetched(files.training)
    validation = await job.fetched(files.validation) if files.validation else None
    request = _request(job.claim.job, where, files.training.sha256, files.validation.sha256 if files.validation else "")
    journal = Journal(job.folder / "provider", request)
    async with _provider(where) as provider:
        try:
            await start(provider, journal, training, validation)
            job.lease.at("train")
            async for event in follow(provider, journal, asyncio.sleep, where.poll_seconds):
                await job.api.events(job.id, job.lease.token, [_event(job.id, event)])
        except (asyncio.CancelledError, JobOver) as exc:
            if (job.lease.over or isinstance(exc, JobOver)) and journal.record.job_id:
                await provider.cancel(journal.record.job_id)
            raise
    job.lease.at("register")
    model, tokens = result(journal.record), journal.record.trained_tokens
    return await job.api.complete_at_provider(job.id, job.lease.token, model, tokens)


def _request(job: JobSpec, where: ProviderSettings, training_sha256: str, validation_sha256: str) -> JobRequest:
    """What is asked of the provider; `dataset` is the gateway's job, which makes the request this job's own."""
    asked: dict[str, Any] = {name: value for name, value in job.hyperparameters.items() if value != "auto"}
    return JobRequest(
        base_url=where.base_url,
        model=job.model,
        training_sha256=training_sha256,
        validation_sha256=validation_sha256,
        suffix=job.suffix or "",
        seed=job.seed,
        n_epochs=asked.get("n_epochs", 0),
        batch_size=asked.get("batch_size", 0),
        learning_rate_multiplier=float(asked.get("learning_rate_multiplier", 0.0)),
        dataset=job.id,
    )


def _event(job_id: str, event: Event) -> JobEvent:
    """A provider's event under an id that is the same whoever passes it on."""
    name = hashlib.sha256(f"{job_id}:{event.id}".encode()).hexdigest()[:24]
    kind = "metrics" if event.type == "metrics" else "message"
    level = event.level if event.level in ("info", "warn", "error") else "info"
    return JobEvent(f"ftevent-{name}", event.created_at, level, kind, event.message[:4000], event.data or None)


@asynccontextmanager
async def _provider(where: ProviderSettings) -> AsyncIterator[Provider]:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(api_key=where.key(), base_url=where.base_url) as client:
        yield Provider(client)
