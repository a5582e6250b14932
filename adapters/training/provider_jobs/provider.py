"""The provider as a few questions, through the `openai` SDK: any base URL with OpenAI's fine-tuning API.

The SDK's own retries are off: it would repeat a POST whose answer was lost, and start a job twice. Questions are
repeated here with growing pauses; of the two that change something, only the caller knows how to look before asking
again. How often is for whoever waits to say: a command gives up, a trainer asks for as long as it has the job.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from adapters.training.provider_jobs.errors import ProviderAway, ProviderRefused
from adapters.training.provider_jobs.journal import JobRequest

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Sleep = Callable[[float], Coroutine[Any, Any, None]]
T = TypeVar("T")
KEY = "tunegate_key"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a provider's job log; `data` holds figures for events of type `metrics`."""

    id: str
    created_at: int
    level: str
    type: str
    message: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class JobState:
    """A provider's job as it is now."""

    id: str
    status: str
    model: str
    trained_tokens: int
    error: str


class Lost(Exception):
    """No answer came: the request may have taken effect or not."""


class Provider:
    """An OpenAI-compatible fine-tuning service.

    `tries` in a row without an answer are enough; None: it is asked for ever, and whoever asks is cancelled. `on_lost`
    hears of each.
    """

    def __init__(
        self,
        client: AsyncOpenAI,
        *,
        sleep: Sleep = asyncio.sleep,
        tries: int | None = 6,
        on_lost: Callable[[Lost], None] = lambda _: None,
    ) -> None:
        self._client = client.with_options(max_retries=0)
        self._sleep = sleep
        self._tries = tries
        self._on_lost = on_lost

    def attempts(self) -> Iterator[int]:
        """The numbers of the tries that a request has."""
        return itertools.count() if self._tries is None else iter(range(self._tries))

    async def lost(self, attempt: int, exc: Lost) -> None:
        """Tell of a try without an answer, and wait, longer with every one (at most 30 s)."""
        self._on_lost(exc)
        await self._sleep(min(30.0, 0.5 * 2 ** min(attempt, 6)))

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """Repeat a question that changes nothing until it is answered; ProviderAway after `tries` in a row."""
        last: Lost | None = None
        for attempt in self.attempts():
            try:
                return await self._once(question)
            except Lost as exc:
                last = exc
                await self.lost(attempt, exc)
        raise ProviderAway(
            f"the provider did not answer {self._tries} times ({last}); run the same command again"
        ) from last

    async def find_file(self, name: str, size: int) -> str | None:
        """A file that was uploaded under this name and has this size."""

        async def question() -> str | None:
            async for file in self._client.files.list(purpose="fine-tune"):
                if file.filename == name and file.bytes == size and file.status != "error":
                    return str(file.id)
            return None

        return await self.ask(question)

    async def upload(self, path: Path, name: str) -> str:
        """Upload a file once; Lost when no answer came."""

        async def change() -> str:
            with path.open("rb") as opened:
                return str((await self._client.files.create(file=(name, opened), purpose="fine-tune")).id)

        return await self._once(change)

    async def find_job(self, key: str) -> str | None:
        """A job that carries this key in its metadata."""

        async def question() -> str | None:
            async for job in self._client.fine_tuning.jobs.list():
                if (job.metadata or {}).get(KEY) == key:
                    return str(job.id)
            return None

        return await self.ask(question)

    async def start(self, request: JobRequest, training_file: str, validation_file: str) -> str:
        """Create a job once; Lost when no answer came."""

        async def change() -> str:
            body = job_body(request, training_file, validation_file)
            return str((await self._client.fine_tuning.jobs.create(**body)).id)

        return await self._once(change)

    async def state(self, job_id: str) -> JobState:
        """The job now."""
        job = await self.ask(lambda: self._client.fine_tuning.jobs.retrieve(job_id))
        error = f"{job.error.code}: {job.error.message}" if job.error and job.error.message else ""
        return JobState(job.id, job.status, job.fine_tuned_model or "", job.trained_tokens or 0, error)

    async def events(self, job_id: str, after: str) -> list[Event]:
        """Events newer than `after`, oldest first; the API lists the newest first."""

        async def question() -> list[Event]:
            found: list[Event] = []
            async for event in self._client.fine_tuning.jobs.list_events(job_id, limit=100):
                if event.id == after:
                    break
                data = event.data if isinstance(event.data, dict) else {}
                found.append(
                    Event(event.id, event.created_at, event.level, event.type or "message", event.message, data)
                )
            return found[::-1]

        return await self.ask(question)

    async def cancel(self, job_id: str) -> None:
        """Ask the provider to stop; a job that has ended stays as it is."""
        await self.ask(lambda: self._client.fine_tuning.jobs.cancel(job_id))

    async def models(self) -> AsyncIterator[tuple[str, str | None]]:
        """Name and shutdown date of every model the provider lists."""
        listed = await self.ask(self._listed_models)
        for name, shutdown in listed:
            yield name, shutdown

    async def _listed_models(self) -> list[tuple[str, str | None]]:
        return [(model.id, getattr(model, "shutdown_date", None)) async for model in self._client.models.list()]

    async def _once(self, request: Callable[[], Awaitable[T]]) -> T:
        import openai

        try:
            return await request()
        except openai.RateLimitError as exc:
            if exc.code == "insufficient_quota":
                raise ProviderRefused(f"the provider's quota is used up: {exc.message}") from exc
            raise Lost("too many requests") from exc
        except (openai.APIConnectionError, openai.InternalServerError) as exc:
            raise Lost(type(exc).__name__) from exc
        except openai.APIStatusError as exc:
            raise ProviderRefused(
                f"the provider refused with {exc.status_code}: {exc.message}", param=exc.param
            ) from exc


def job_body(request: JobRequest, training_file: str, validation_file: str) -> dict[str, Any]:
    """The body of the create call; the key in the metadata is how a job is found again."""
    hyperparameters: dict[str, Any] = {
        "n_epochs": request.n_epochs or "auto",
        "batch_size": request.batch_size or "auto",
        "learning_rate_multiplier": request.learning_rate_multiplier or "auto",
    }
    body: dict[str, Any] = {
        "model": request.model,
        "training_file": training_file,
        "seed": request.seed,
        "metadata": {KEY: request.key, "tunegate_dataset": request.dataset or request.training_sha256[:12]},
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
    }
    if validation_file:
        body["validation_file"] = validation_file
    if request.suffix:
        body["suffix"] = request.suffix
    return body
