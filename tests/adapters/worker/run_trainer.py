"""A trainer in a process of its own, to be killed: `python -m tests.adapters.worker.run_trainer settings.json secret`."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import httpx2

from adapters.gateway import TrainingApi
from adapters.worker.loop import Worker
from adapters.worker.settings import TrainerSettings


async def main(settings: TrainerSettings, secret: str) -> None:
    """Work until killed."""
    headers = {"authorization": f"Bearer {secret}"}
    async with httpx2.AsyncClient(base_url=settings.gateway, headers=headers) as client:
        await Worker(TrainingApi(client), settings).run(asyncio.Event())


if __name__ == "__main__":
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    asyncio.run(main(TrainerSettings.model_validate(told), sys.argv[2]))
