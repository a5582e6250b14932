"""Every reason why a training does not start, or ends without an adapter; below SidecarError, so the CLI prints it.

TrainingError
├── Refused              found before the first step: nothing has been written, nothing registered
│   ├── InvalidRecipe      invalid_recipe
│   ├── BaseNotFound       base_not_found
│   ├── TooFewExamples     too_few_examples
│   ├── InvalidTraining    invalid_training_file
│   ├── NotServable        not_servable
│   └── StorageFull        insufficient_storage
├── Diverged             training_diverged: the loss is not a number
└── TrainingFailed       training_failed: the process ended without an adapter

`code` is what the training API and the tenant's job carry. Messages say what was expected and what to do; they never
hold the text of an example.
"""

from __future__ import annotations

from adapters.errors import SidecarError


class TrainingError(SidecarError):
    """The root: knows the code of the job's error and the field it is about."""

    code = "training_failed"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class Refused(TrainingError):
    """The training cannot succeed, and this was seen before it started."""

    code = "invalid_recipe"


class InvalidRecipe(Refused):
    """The recipe contradicts itself, the machine or the base model."""


class BaseNotFound(Refused):
    """The base model is not where the recipe says, or lacks a file."""

    code = "base_not_found"


class TooFewExamples(Refused):
    """There is not enough to learn from."""

    code = "too_few_examples"


class InvalidTraining(Refused):
    """The examples cannot be trained on."""

    code = "invalid_training_file"


class NotServable(Refused):
    """vLLM would refuse the adapter, or serve something else."""

    code = "not_servable"


class StorageFull(Refused):
    """There is not enough room on the disk for checkpoints and adapter."""

    code = "insufficient_storage"


class Diverged(TrainingError):
    """The loss is no longer a number."""

    code = "training_diverged"


class TrainingFailed(TrainingError):
    """The training process ended without an adapter."""


def of_code(code: str, message: str, param: str | None = None) -> TrainingError:
    """Rebuild an error that a child process wrote down."""
    kinds: list[type[TrainingError]] = [
        InvalidRecipe, BaseNotFound, TooFewExamples, InvalidTraining, NotServable, StorageFull, Diverged,
    ]  # fmt: skip
    kind = next((kind for kind in kinds if kind.code == code), TrainingFailed)
    return kind(message, param=param)
