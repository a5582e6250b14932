"""Cancelling at providers what has ended here: a job of this trainer's at once, any other when the gateway offers it.

The gateway knows from before its start how a job is found at its provider, and offers one that was cancelled or has
failed to any trainer of that provider until one says that it is stopped. So nothing hangs on the disk, or the life, of
the trainer that followed it; what cannot be done now is offered again.
"""

from __future__ import annotations

import asyncio

import structlog

from adapters.gateway import Disagreement, GatewayAway, JobOver, LeaseLost, Stop, TrainingApi
from adapters.training.provider_jobs.errors import ProviderAway, ProviderRefused
from adapters.worker.lease import Sleep
from adapters.worker.provider import cancel_there, connected
from adapters.worker.settings import TrainerSettings

_log = structlog.get_logger(__name__)
_TRIES = 3


class Stops:
    """The providers of one trainer, as those that are told to stop."""

    def __init__(self, api: TrainingApi, settings: TrainerSettings, *, sleep: Sleep = asyncio.sleep) -> None:
        self._api = api
        self._settings = settings
        self._sleep = sleep

    async def look(self) -> None:
        """Stop what is offered; a gateway that is away is asked the next time."""
        try:
            while (stop := await self._offered()) is not None:
                await self.end(stop.job, stop.lease.token, stop.provider, stop.provider_job)
        except (GatewayAway, Disagreement) as exc:
            _log.warning("stops_not_claimed", reason=str(exc))

    async def end(self, job: str, token: int, provider: str, provider_job: str) -> None:
        """Cancel the job there and say so, under the newest token of it."""
        try:
            async with connected(self._settings.providers[provider], job, tries=_TRIES, sleep=self._sleep) as there:
                await cancel_there(there, provider_job)
            await self._api.stopped(job, token)
        except (ProviderAway, ProviderRefused, GatewayAway, Disagreement, LeaseLost, JobOver) as exc:
            _log.warning("provider_job_not_stopped", job=job, provider=provider, reason=str(exc))
        else:
            _log.info("provider_job_stopped", job=job, provider=provider)

    async def _offered(self) -> Stop | None:
        own = self._settings
        return await self._api.claim_stop(own.name, tuple(own.providers)) if own.providers else None
