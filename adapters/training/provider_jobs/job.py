"""A provider's job from files to model, as steps that can each be repeated: whatever crashes, nothing is done twice.

Each changing step is: look in the journal, look at the provider, do, write down. A file is known by a name made from
its hash, a job by a key in its metadata, so what took effect is found again even when its answer, or we, were lost.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

from adapters.training.provenance import file_sha256
from adapters.training.provider_jobs.errors import ProviderAway, ProviderJobFailed
from adapters.training.provider_jobs.journal import Journal, Record
from adapters.training.provider_jobs.provider import Event, Lost, Provider, Sleep

ENDED = frozenset({"succeeded", "failed", "cancelled"})  # anything else, known or not, may still go on


async def start(provider: Provider, journal: Journal, training: Path, validation: Path | None) -> Record:
    """Have the files at the provider and the job started, each exactly once."""
    journal.note(training_path=str(training), validation_path=str(validation or ""))
    if not journal.record.training_file:
        journal.note(training_file=await ensure_file(provider, training))
    if validation is not None and not journal.record.validation_file:
        journal.note(validation_file=await ensure_file(provider, validation))
    if not journal.record.job_id:
        journal.note(job_id=await _ensure_job(provider, journal.record), status="queued")
    return journal.record


async def ensure_file(provider: Provider, path: Path) -> str:
    """The id of the file at the provider, uploaded if it is not there."""
    name, size = _identity(path)
    for attempt in provider.attempts():
        found = await provider.find_file(name, size)
        if found is not None:
            return found
        try:
            return await provider.upload(path, name)
        except Lost as exc:  # it may have arrived: look before sending again
            await provider.lost(attempt, exc)
    raise ProviderAway(f"{path.name} could not be uploaded; run the same command again")


def _identity(path: Path) -> tuple[str, int]:
    """Name at the provider, made from the content, and size."""
    return f"tunegate-{file_sha256(path)[:24]}.jsonl", path.stat().st_size


async def _ensure_job(provider: Provider, record: Record) -> str:
    for attempt in provider.attempts():
        found = await provider.find_job(record.request.key)
        if found is not None:
            return found
        try:
            return await provider.start(record.request, record.training_file, record.validation_file)
        except Lost as exc:  # it may have started: look before asking again
            await provider.lost(attempt, exc)
    raise ProviderAway("the job could not be started; run the same command again")


async def follow(
    provider: Provider, journal: Journal, sleep: Sleep, poll_seconds: float = 10.0
) -> AsyncGenerator[Event, None]:
    """Events as they come, each once over all runs, until the job has ended; the journal then has the result."""
    while True:
        state = await provider.state(journal.record.job_id)
        for event in await provider.events(journal.record.job_id, journal.record.last_event):
            yield event
            journal.note(last_event=event.id)
        journal.note(status=state.status, model=state.model, trained_tokens=state.trained_tokens, error=state.error)
        if state.status in ENDED:
            return
        await sleep(poll_seconds)


def result(record: Record) -> str:
    """The fine-tuned model's name; ProviderJobFailed says how the job ended instead."""
    if record.status == "succeeded" and record.model:
        return record.model
    raise ProviderJobFailed(
        f"job {record.job_id} is {record.status or 'not started'}: {record.error or 'no reason given'}"
    )
