"""The training process: `python -m adapters.training plan.json`, alone, or starting the ranks that the recipe asks for.

It ends when its parent does: a worker that is killed must not leave a training behind that nobody watches. A bad end is
written to `error.json` beside the plan, with the code the training API carries.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import msgspec

from adapters.training.artifact import read_manifest
from adapters.training.callbacks import Interrupt
from adapters.training.distributed import train_by_ray, train_by_torchrun
from adapters.training.errors import TrainingError
from adapters.training.plan import TrainingPlan, read_plan
from adapters.training.preflight import check, this_machine
from adapters.training.process import STOPPED
from adapters.training.session import run

REFUSED = 3


def main(arguments: list[str]) -> int:
    """Train as the plan says; status 3 is a refusal or failure that was written down, 4 a stop that was asked for."""
    watch_parent(os.getppid())
    plan_file = Path(arguments[0]).absolute()
    plan = read_plan(plan_file)
    if "--rank" in arguments:
        return run_rank(plan)
    plan.error_file.unlink(missing_ok=True)
    try:
        launch = check(plan, this_machine()).recipe.launch
        if launch.by == "single":
            interrupt = Interrupt()
            interrupt.listen()
            return run_rank(plan, interrupt) or (STOPPED if read_manifest(plan.adapter) is None else 0)
        status = (train_by_torchrun if launch.by == "torchrun" else train_by_ray)(plan_file, launch)
    except TrainingError as exc:
        return write_error(plan, exc)
    return REFUSED if plan.error_file.exists() else status


def run_rank(plan: TrainingPlan, interrupt: Interrupt | None = None) -> int:
    """Be one rank."""
    try:
        run(plan, this_machine(), interrupt or Interrupt())
    except TrainingError as exc:
        return write_error(plan, exc)
    return 0


def write_error(plan: TrainingPlan, error: TrainingError) -> int:
    """Write down why; the last writer wins, since all ranks meet the same error."""
    temporary = plan.error_file.with_suffix(f".{os.getpid()}.tmp")
    told = {"code": error.code, "message": error.message, "param": error.param}
    temporary.write_bytes(msgspec.json.encode(told))
    temporary.replace(plan.error_file)
    sys.stderr.write(f"{error.code}: {error.message}\n")
    return REFUSED


def watch_parent(parent: int, every_seconds: float = 0.5) -> None:
    """End this process at once when its parent has gone; checkpoints are whole or not there, so nothing is lost."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every_seconds)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
