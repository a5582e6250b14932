"""What happens at every step: figures told, divergence noticed, checkpoints sealed and pruned."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.training.checkpoints import prune, seal
from adapters.training.errors import Diverged
from adapters.training.progress import Pace, Progress, ProgressWriter
from adapters.training.tracking import Tracker


@dataclass(slots=True)
class Interrupt:
    """Whether somebody has asked the training to save and stop; only a training of one process listens."""

    asked: bool = False

    def listen(self) -> None:
        """Take SIGTERM as the question."""
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True


@dataclass(slots=True)
class Steps:
    """What is done at steps; with `writer=None` (not the first process) it only takes part in the waiting."""

    keep: int
    writer: ProgressWriter | None
    tracker: Tracker | None
    interrupt: Interrupt
    pace: Pace = field(default_factory=Pace)

    def logged(self, step: int, total: int, logs: Mapping[str, float]) -> None:
        """A step is done; logs without a loss are summaries."""
        if "loss" in logs:
            check_loss(float(logs["loss"]), step)
            self._tell(_step(logs, step, total, self.pace.at(step, total, time.monotonic())))

    def evaluated(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """The held-out loss was measured."""
        loss, accuracy = float(metrics["eval_loss"]), metrics.get("eval_mean_token_accuracy")
        self._tell(Progress(kind="evaluation", step=step, total_steps=total, valid_loss=loss, valid_accuracy=accuracy))

    def saved(self, folder: Path, step: int, total: int, best: str | None) -> None:
        """Every process has written its part of a checkpoint: seal it, then prune."""
        if self.writer is None:
            return
        name = f"checkpoint-{step}"
        seal(folder / name)
        prune(folder, self.keep, Path(best) if best else None)
        self._tell(Progress(kind="checkpoint", step=step, total_steps=total, message=name))

    def _tell(self, progress: Progress) -> None:
        if self.writer is not None:
            self.writer.tell(progress)
        if self.tracker is not None:
            self.tracker.step(progress)


def step_callback(steps: Steps) -> Any:
    """The same as a transformers callback; defined inside, since its base class comes with torch."""
    from accelerate import PartialState
    from transformers import TrainerCallback

    class StepCallback(TrainerCallback):  # type: ignore[misc]
        """Passes on what transformers calls."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, state
            if steps.interrupt.asked:
                control.should_save = control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            del args, control
            steps.logged(state.global_step, state.max_steps, logs)

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
            del args, control
            steps.evaluated(state.global_step, state.max_steps, metrics)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del control
            PartialState().wait_for_everyone()
            steps.saved(Path(args.output_dir), state.global_step, state.max_steps, state.best_model_checkpoint)

    return StepCallback()


def check_loss(loss: float, step: int) -> None:
    """Stop at the first loss that is not a number: nothing after it can be good."""
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss is not a number at step {step}; lower optimization.learning_rate, or raise warmup_ratio",
            param="optimization.learning_rate",
        )


def _step(logs: Mapping[str, float], step: int, total: int, left: float | None) -> Progress:
    return Progress(
        kind="step",
        step=step,
        total_steps=total,
        train_loss=float(logs["loss"]),
        train_accuracy=logs.get("mean_token_accuracy"),
        learning_rate=logs.get("learning_rate"),
        seconds_left=left,
    )
