"""What happens at every step: figures told, divergence noticed, checkpoints sealed and pruned."""

from __future__ import annotations

import math
import signal
import time
from dataclasses import dataclass
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


def step_callback(keep: int, writer: ProgressWriter | None, tracker: Tracker | None, interrupt: Interrupt) -> Any:
    """A transformers callback; with `writer=None` (not the first process) it only takes part in the waiting."""
    from accelerate import PartialState
    from transformers import TrainerCallback

    class Steps(TrainerCallback):  # type: ignore[misc]
        """Defined here, since its base class comes with torch."""

        def __init__(self) -> None:
            self.pace = Pace()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, state
            if interrupt.asked:
                control.should_save = control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            del args, control
            if "loss" in logs:
                check_loss(float(logs["loss"]), state.global_step)
                left = self.pace.at(state.global_step, state.max_steps, time.monotonic())
                self._tell(_step(logs, state.global_step, state.max_steps, left))

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
            del args, control
            self._tell(
                Progress(
                    kind="evaluation",
                    step=state.global_step,
                    total_steps=state.max_steps,
                    valid_loss=float(metrics["eval_loss"]),
                    valid_accuracy=metrics.get("eval_mean_token_accuracy"),
                )
            )

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del control
            PartialState().wait_for_everyone()
            if writer is None:
                return
            folder = Path(args.output_dir)
            saved = folder / f"checkpoint-{state.global_step}"
            seal(saved)
            prune(folder, keep, Path(state.best_model_checkpoint) if state.best_model_checkpoint else None)
            self._tell(Progress(kind="checkpoint", step=state.global_step, total_steps=state.max_steps, message=saved.name))

        def _tell(self, progress: Progress) -> None:
            if writer is not None:
                writer.tell(progress)
            if tracker is not None:
                tracker.step(progress)

    return Steps()


def check_loss(loss: float, step: int) -> None:
    """Stop at the first loss that is not a number: nothing after it can be good."""
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss is not a number at step {step}; lower optimization.learning_rate, or raise warmup_ratio",
            param="optimization.learning_rate",
        )


def _step(logs: dict[str, float], step: int, total: int, left: float | None) -> Progress:
    return Progress(
        kind="step",
        step=step,
        total_steps=total,
        train_loss=float(logs["loss"]),
        train_accuracy=logs.get("mean_token_accuracy"),
        learning_rate=logs.get("learning_rate"),
        seconds_left=left,
    )
