"""A trainer in a process of its own, to be killed: `python -m tests.adapters.worker.run_trainer settings.json`."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from adapters.worker.main import run
from adapters.worker.settings import TrainerSettings

if __name__ == "__main__":
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    asyncio.run(run(TrainerSettings.model_validate(told)))
