"""A recipe: everything that decides how an adapter is trained, as one strict YAML file.

A field nobody knows is refused by name, so a typo never silently trains something else. Sizes that must agree are
checked here; what depends on the machine or the base model is checked by `preflight`. Batch sizes are in examples per
optimizer step *over all processes*: the same recipe means the same training on one process and on eight.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adapters.training.errors import InvalidRecipe


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AdapterRecipe(_Strict):
    """Which low-rank update is learned, and where in the model."""

    kind: Literal["lora", "rslora", "dora"] = "lora"
    rank: int = Field(16, ge=1, le=512)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: Literal["auto", "attention", "mlp", "all"] | tuple[str, ...] = "auto"


class DataRecipe(_Strict):
    """How examples become tokens."""

    max_tokens: int = Field(2048, ge=16)
    min_examples: int = Field(10, ge=1)
    assistant_only_loss: bool = True
    packing: bool = False
    chat_template: Path | None = None


class OptimizationRecipe(_Strict):
    """How the weights move. Small data is repeated until `min_steps`; `max_steps`, when set, wins over both."""

    epochs: float = Field(3, gt=0, le=50)
    min_steps: int = Field(0, ge=0)
    max_steps: int | None = Field(None, ge=1)
    batch_size: int = Field(16, ge=1)
    micro_batch_size: int = Field(4, ge=1)
    learning_rate: float = Field(2e-4, gt=0, lt=1)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    optimizer: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = "adamw_torch"
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.batch_size % self.micro_batch_size:
            raise ValueError("batch_size must be a multiple of micro_batch_size; change one of them")
        return self


class EvaluationRecipe(_Strict):
    """When the held-out loss is measured; `patience` measurements without gain end the training early."""

    every_steps: int | None = Field(None, ge=1)
    patience: int | None = Field(None, ge=1)
    min_gain: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _patience_needs_measurements(self) -> Self:
        if self.patience is not None and self.every_steps is None:
            raise ValueError("patience needs every_steps: say how often the held-out loss is measured")
        return self


class CheckpointRecipe(_Strict):
    """How often the state is saved, and how many whole checkpoints stay on disk."""

    every_steps: int = Field(50, ge=1)
    keep: int = Field(2, ge=1)


class LaunchRecipe(_Strict):
    """On how many processes, started by whom, and how the weights are spread over them.

    `single` is one process; `torchrun` is this machine's `processes` (and, with `nodes` above one, one such command on
    every node); `ray` is Ray Train over a cluster, `processes` workers in all.
    """

    by: Literal["single", "torchrun", "ray"] = "single"
    processes: int = Field(1, ge=1)
    nodes: int = Field(1, ge=1)
    rendezvous: str | None = None
    strategy: Literal["ddp", "fsdp2", "zero3"] = "ddp"
    cpu_offload: bool = False
    restarts: int = Field(0, ge=0)
    ray_address: str | None = None
    cpu_threads: int | None = Field(None, ge=1)

    @property
    def world_size(self) -> int:
        """Processes over all machines."""
        return self.processes * (self.nodes if self.by == "torchrun" else 1)

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.by == "single" and (self.processes > 1 or self.nodes > 1 or self.strategy != "ddp"):
            raise ValueError("by: single is one process; use torchrun or ray for several processes, fsdp2 or zero3")
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError("nodes above one need rendezvous: host:port of a machine that all nodes reach")
        return self


class ServingRecipe(_Strict):
    """What the replicas that will serve the adapter were started with."""

    servable: bool = True
    max_lora_rank: int = Field(16, ge=1)


class TrackingRecipe(_Strict):
    """Where runs are logged: an MLflow tracking URI (a folder, a database or a server) and an experiment."""

    mlflow_uri: str
    experiment: str = "tunegate"


class Recipe(_Strict):
    """One training, from base model to servable adapter."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")
    base: str
    base_revision: str | None = None
    seed: int = Field(42, ge=0, lt=2**32)
    adapter: AdapterRecipe = AdapterRecipe()
    quantization: Literal["none", "8bit", "4bit"] = "none"
    data: DataRecipe = DataRecipe()
    optimization: OptimizationRecipe = OptimizationRecipe()
    evaluation: EvaluationRecipe = EvaluationRecipe()
    checkpoints: CheckpointRecipe = CheckpointRecipe()
    launch: LaunchRecipe = LaunchRecipe()
    serving: ServingRecipe = ServingRecipe()
    tracking: TrackingRecipe | None = None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        steps = self.evaluation.every_steps
        if self.evaluation.patience is not None and steps is not None and self.checkpoints.every_steps % steps:
            raise ValueError(
                "checkpoints.every_steps must be a multiple of evaluation.every_steps when patience is set, "
                "so that the best step is one that was saved"
            )
        return self

    @property
    def sha256(self) -> str:
        """Hash of what the recipe says, whatever the file's comments and order."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file; InvalidRecipe names the file, the field and the rule."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        raise InvalidRecipe(f"recipe {path}: no such file; the shipped ones are {', '.join(shipped())}") from exc
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise InvalidRecipe(f"recipe {path.name}: not YAML: {_flat(str(exc))}") from exc
    if not isinstance(raw, dict):
        raise InvalidRecipe(f"recipe {path.name}: expected a mapping of fields")
    return parse_recipe(raw, source=path.name)


def parse_recipe(raw: Mapping[str, Any], *, source: str) -> Recipe:
    """Judge the fields of a recipe."""
    try:
        return Recipe.model_validate(raw)
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        reason = "there is no such field" if first["type"] == "extra_forbidden" else first["msg"]
        raise InvalidRecipe(f"recipe {source}: {field or 'recipe'}: {reason}", param=field or None) from exc


def changed(recipe: Recipe, changes: Mapping[str, Any], *, source: str) -> Recipe:
    """A recipe with some fields replaced, named by their dotted path; checked again as a whole."""
    raw = recipe.model_dump()
    for path, value in changes.items():
        *parents, leaf = path.split(".")
        place = raw
        for parent in parents:
            place = place.get(parent)  # type: ignore[assignment]
            if not isinstance(place, dict):
                raise InvalidRecipe(f"recipe {source}: {path}: there is no such field", param=path)
        place[leaf] = value
    return parse_recipe(raw, source=source)


def shipped() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    folder = resources.files("adapters.training") / "recipes"
    return tuple(sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml")))


def shipped_recipe(name: str) -> Recipe:
    """A recipe of the package by its name."""
    if name not in shipped():
        raise InvalidRecipe(f"recipe {name!r}: there is no such recipe; choose one of {', '.join(shipped())}")
    with resources.as_file(resources.files("adapters.training") / "recipes" / f"{name}.yaml") as path:
        return load_recipe(path)


def _flat(text: str) -> str:
    return " ".join(text.split())
