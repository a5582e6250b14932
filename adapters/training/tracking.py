"""MLflow tracking, when a recipe asks for it: one run per training, continued after a kill.

The adapter is logged as plain files, not as a model flavour: what was tested is what is kept. A tracking server that is
away does not stop a training; it is told once and then left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.training.errors import InvalidRecipe
from adapters.training.plan import TrainingPlan
from adapters.training.progress import Progress
from adapters.training.recipe import TrackingRecipe
from adapters.types import AdapterManifest

_log = logging.getLogger(__name__)


class Tracker:
    """One MLflow run; the id lies in the work folder, so that a resumed training goes on in the same run."""

    def __init__(self, settings: TrackingRecipe, plan: TrainingPlan) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError as exc:
            raise InvalidRecipe(
                "tracking: MLflow is not installed: pip install mlflow-skinny", param="tracking"
            ) from exc
        self._failures: tuple[type[Exception], ...] = (MlflowException, OSError)
        self._client: Any = MlflowClient(tracking_uri=settings.mlflow_uri)
        self._away = False
        self._run = self._attempt(lambda: self._open(settings.experiment, plan)) or ""

    def step(self, progress: Progress) -> None:
        """Log the figures of a step."""
        figures = {
            "train_loss": progress.train_loss,
            "train_accuracy": progress.train_accuracy,
            "valid_loss": progress.valid_loss,
            "learning_rate": progress.learning_rate,
        }
        for name, value in figures.items():
            if value is not None:
                self._attempt(
                    lambda name=name, value=value: self._client.log_metric(self._run, name, value, step=progress.step)
                )

    def finish(self, manifest: AdapterManifest, folder: Path) -> None:
        """Log lineage as tags and the adapter as files, and close the run."""
        tags = {
            "version": manifest.version,
            "dataset": manifest.dataset,
            "dataset_sha256": manifest.dataset_sha256,
            "base_revision": manifest.base_revision,
            "code_commit": manifest.code_commit,
        }
        for name, value in tags.items():
            self._attempt(lambda name=name, value=value: self._client.set_tag(self._run, name, value))
        self._attempt(lambda: self._client.log_artifacts(self._run, str(folder), "adapter"))
        self._attempt(lambda: self._client.set_terminated(self._run, "FINISHED"))

    def _open(self, experiment: str, plan: TrainingPlan) -> str:
        known = plan.folder / "mlflow_run"
        if known.is_file():
            return known.read_text(encoding="utf-8")
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        run = self._client.create_run(number, run_name=f"{plan.tenant}--{plan.name}")
        for name, value in flat(plan.recipe).items():
            self._client.log_param(run.info.run_id, name, value)
        known.write_text(run.info.run_id, encoding="utf-8")
        return str(run.info.run_id)

    def _attempt(self, call: Any) -> Any:
        if self._away:
            return None
        try:
            return call()
        except self._failures as exc:
            self._away = True
            _log.warning("MLflow is away, the training goes on without it: %s", type(exc).__name__)
            return None


def flat(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A recipe as parameters with dotted names."""
    made: dict[str, str] = {}
    for name, value in recipe.items():
        if isinstance(value, Mapping):
            made |= flat(value, f"{prefix}{name}.")
        else:
            made[prefix + name] = str(value)
    return made
