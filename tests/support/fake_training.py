"""A training program without torch: `python -m tests.support.fake_training plan.json`, for tests of who starts it.

It keeps the contract of `adapters.training` (progress, sealed checkpoints, SIGTERM saves and ends with 4, manifest
last) and "learns" one of the shipped adapters, a step every 20 ms. The checkpoint's content is the step it was written
at.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

from adapters.training.__main__ import watch_parent
from adapters.training.artifact import settle
from adapters.training.checkpoints import newest, seal, step_of
from adapters.training.lineage import manifest_for
from adapters.training.plan import TrainingPlan, read_plan
from adapters.training.preflight import check, this_machine
from adapters.training.process import STOPPED
from adapters.training.progress import Progress, ProgressWriter
from tests.support.training_data import BASE

STEP_SECONDS = 0.02


def main(plan: TrainingPlan) -> int:
    """Count up from the newest checkpoint."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    watch_parent(os.getppid(), every_seconds=0.05)
    recipe, writer, resume = plan.parsed_recipe(), ProgressWriter(plan.progress_file), newest(plan.checkpoints)
    total, start = recipe.optimization.max_steps or 1, step_of(resume) if resume else 0
    writer.tell(Progress(kind="start", total_steps=total, message="a fake training"))
    for step in range(start + 1, total + 1):
        time.sleep(STEP_SECONDS)
        writer.tell(Progress(kind="step", step=step, total_steps=total, train_loss=1 / step, seconds_left=1.0))
        if stop.is_set() or step % recipe.checkpoints.every_steps == 0:
            save(plan, step)
            writer.tell(Progress(kind="checkpoint", step=step, total_steps=total))
        if stop.is_set():
            return STOPPED
    finish(plan, total)
    return 0


def save(plan: TrainingPlan, step: int) -> None:
    """Write a whole checkpoint."""
    folder = plan.checkpoints / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "state").write_text(str(step), encoding="utf-8")
    seal(folder)


def finish(plan: TrainingPlan, steps: int) -> None:
    """Hand over a shipped adapter as the result."""
    building = plan.folder / "adapter.building"
    shutil.copytree(BASE.parent / "adapters" / plan.tenant, building)
    checked, metrics = (
        check(plan, this_machine()),
        {"steps": float(steps), "train_loss": 1 / steps, "trained_tokens": 9.0},
    )
    settle(building, plan.adapter, plan.base_name, lambda folder: manifest_for(plan, checked, folder, metrics, 0.0))


if __name__ == "__main__":
    sys.exit(main(read_plan(Path(sys.argv[1]))))
