"""A claimed job on a provider's model: its files go there, it is started once, followed, and its model named.

The lease is an ordinary one, and the job at the provider is known by the gateway's job id: a trainer that takes over,
on whatever machine, finds the files by their hash and the job by its key, so nothing is uploaded or started twice. A
provider that is away is asked again for as long as this trainer has the job: what it does has been paid for. The key is
told to the gateway before anything is started, so that whatever ends the job here, it is cancelled there (`stops`). A
pause only stops the following, for the provider's own work goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog

from adapters.gateway import Completion, JobSpec
from adapters.gateway import Event as JobEvent
from adapters.training.errors import BaseNotFound
from adapters.training.provider_jobs.job import ENDED, follow, result, start
from adapters.training.provider_jobs.journal import JobRequest, Journal
from adapters.training.provider_jobs.provider import Event, Lost, Provider
from adapters.worker.lease import Sleep
from adapters.worker.settings import ProviderSettings

if TYPE_CHECKING:
    from adapters.worker.job import Job

_log = structlog.get_logger(__name__)
_NOT_BEGUN = frozenset({"", "queued", "validating_files"})  # a job that ends so has cost nothing


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

    async def pause(seconds: float) -> None:
        if journal.record.status not in _NOT_BEGUN:
            job.lease.at("train")
        await job.sleep(seconds)

    job.lease.provider_job = request.key
    await job.api.announce(job.id, job.lease.token, job.lease.beat())
    async with connected(where, job.id, sleep=job.sleep) as provider:
        await start(provider, journal, training, validation)
        async for event in follow(provider, journal, pause, where.poll_seconds):
            await job.api.events(job.id, job.lease.token, [_event(job.id, event)])
    job.lease.at("register")
    model, tokens = result(journal.record), journal.record.trained_tokens
    return await job.api.complete_at_provider(job.id, job.lease.token, model, tokens)


async def cancel_there(provider: Provider, key: str) -> None:
    """Cancel the job of this key, unless it is not there or has ended; ProviderAway or ProviderRefused."""
    found = await provider.find_job(key)
    if found and (await provider.state(found)).status not in ENDED:
        await provider.cancel(found)


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
async def connected(
    where: ProviderSettings, job: str, *, tries: int | None = None, sleep: Sleep = asyncio.sleep
) -> AsyncIterator[Provider]:
    """The provider, for a job of ours; asked for ever unless `tries` says how often."""
    from openai import AsyncOpenAI

    def lost(exc: Lost) -> None:
        _log.warning("provider_away", job=job, reason=str(exc))

    async with AsyncOpenAI(api_key=where.key(), base_url=where.base_url) as client:
        yield Provider(client, sleep=sleep, tries=tries, on_lost=lost)
