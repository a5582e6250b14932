"""What one training is asked to do: recipe, examples, and where things go; on disk before a process starts.

Layout of the work folder, which survives a kill and may be deleted after the upload:

    plan.json            this plan
    progress.jsonl       one line per step, written by the first process
    error.json           why it ended, when it ended badly
    checkpoints/         checkpoint-N, whole once it holds sealed.json
    adapter/             the result; whole once it holds manifest.json
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from adapters.training.recipe import Recipe, parse_recipe


class TrainingPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a training process is told; paths are absolute."""

    tenant: str
    name: str
    recipe: dict[str, object]
    base_name: str
    base_path: str
    train_file: str
    validation_file: str | None
    dataset: str
    dataset_sha256: str
    work: str

    def parsed_recipe(self) -> Recipe:
        """The recipe, judged again: the plan may come from another machine."""
        return parse_recipe(self.recipe, source=self.name)

    @property
    def folder(self) -> Path:
        """The work folder."""
        return Path(self.work)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are kept."""
        return self.folder / "checkpoints"

    @property
    def adapter(self) -> Path:
        """Where the finished adapter appears."""
        return self.folder / "adapter"

    @property
    def progress_file(self) -> Path:
        """Where steps are told."""
        return self.folder / "progress.jsonl"

    @property
    def error_file(self) -> Path:
        """Where a bad end is told."""
        return self.folder / "error.json"


def write_plan(plan: TrainingPlan) -> Path:
    """Write the plan into its work folder; a plan already there is replaced."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    path = plan.folder / "plan.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n")
    temporary.replace(path)
    return path


def read_plan(path: Path) -> TrainingPlan:
    """Read a plan that `write_plan` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=TrainingPlan)
