"""Starting a trainer: its connection to the gateway, and the signals that end it politely."""

from __future__ import annotations

import asyncio
import signal

import httpx2

from adapters.gateway import TrainingApi
from adapters.training.base_model import read_base
from adapters.worker.folder import held
from adapters.worker.loop import Worker
from adapters.worker.settings import TrainerSettings

_TIMEOUT_SECONDS = 30.0


async def run(settings: TrainerSettings) -> None:
    """Work until SIGTERM or SIGINT; what is missing, or a folder in use, is said before the first claim."""
    for base in settings.bases.values():
        read_base(base.path)
    for provider in settings.providers.values():
        provider.key()
    with held(settings.work, settings.name) as name:
        await _work(settings.model_copy(update={"name": name}))


async def _work(settings: TrainerSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    headers = {"authorization": f"Bearer {settings.trainer_secret()}"}
    async with httpx2.AsyncClient(base_url=settings.gateway, headers=headers, timeout=_TIMEOUT_SECONDS) as client:
        await Worker(TrainingApi(client), settings).run(stop)
