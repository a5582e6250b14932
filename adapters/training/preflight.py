"""Everything that can be known before the first step is checked here: refused early, in words, with nothing written.

The order is from cheap to dear. Nothing here imports torch, so the command line can say no in an instant; what only the
tokenizer can tell (the mask) is checked by the process that trains, before it loads the weights.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adapters.training.base_model import Base, read_base, revision_of
from adapters.training.disk import free_bytes
from adapters.training.errors import BaseNotFound, InvalidRecipe, StorageFull
from adapters.training.plan import TrainingPlan
from adapters.training.quantization import check_optimizer, check_quantization, has_bitsandbytes
from adapters.training.recipe import Recipe
from adapters.training.servable import check_recipe
from adapters.training.sharding import check_strategy
from adapters.training.target_modules import adapter_parameters, chosen_targets
from adapters.training.tokens import check_count, count_lines

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_NAME_LENGTH = 63
_FLOAT_BYTES = 4
_STATE_COPIES = 3  # weights and AdamW's two moments
_RESERVE_BYTES = 64 * 2**20

FreeBytes = Callable[[Path], int]


@dataclass(frozen=True, slots=True)
class Machine:
    """What the machine offers."""

    cuda_devices: int
    free_bytes: FreeBytes


@dataclass(frozen=True, slots=True)
class Checked:
    """What the checks found out, so that nobody asks twice."""

    recipe: Recipe
    base: Base
    targets: tuple[str, ...]
    adapter_parameters: int
    disk_bytes: int


def this_machine() -> Machine:
    """Count CUDA devices with the driver's own tool; free space of the file system a path is on."""
    tool = shutil.which("nvidia-smi")
    listed = subprocess.run([tool, "-L"], capture_output=True, check=False, timeout=30).stdout if tool else b""  # noqa: S603
    return Machine(listed.count(b"GPU "), free_bytes)


def check(plan: TrainingPlan, machine: Machine) -> Checked:
    """Refuse what cannot end well."""
    recipe = plan.parsed_recipe()
    _check_names(plan)
    check_recipe(recipe)
    _check_launch(recipe, machine)
    base = read_base(Path(plan.base_path))
    _check_revision(recipe, base)
    targets = chosen_targets(recipe.adapter.targets, base.linear)
    _check_sizes(recipe, base, targets)
    check_count(count_lines(Path(plan.train_file)), recipe.data.min_examples)
    parameters = adapter_parameters(recipe.adapter.rank, targets, base.linear, base.layers)
    needed = disk_need(parameters, recipe.checkpoints.keep)
    _check_disk(plan.folder, needed, machine)
    return Checked(recipe, base, targets, parameters, needed)


def disk_need(parameters: int, keep: int) -> int:
    """Bytes for the kept checkpoints, the one being written, the best one, and the adapter."""
    return (keep + 2) * _STATE_COPIES * _FLOAT_BYTES * parameters + _FLOAT_BYTES * parameters + _RESERVE_BYTES


def _check_names(plan: TrainingPlan) -> None:
    """Names that the gateway's artifact store would refuse, once everything has been trained."""
    for field, name in (("tenant", plan.tenant), ("name", plan.name)):
        if _NAME.fullmatch(name) is None or len(name) > _NAME_LENGTH:
            raise InvalidRecipe(
                f"{field}: {name!r} cannot be part of an adapter's name; use small letters, digits and single hyphens,"
                f" at most {_NAME_LENGTH} characters",
                param=field,
            )


def _check_launch(recipe: Recipe, machine: Machine) -> None:
    cuda = machine.cuda_devices > 0
    installed = has_bitsandbytes()
    check_quantization(recipe.quantization, installed=installed)
    check_optimizer(recipe.optimization.optimizer, installed=installed, cuda=cuda)
    launch, optimization = recipe.launch, recipe.optimization
    if launch.by == "torchrun" and cuda and launch.processes > machine.cuda_devices:
        raise InvalidRecipe(
            f"launch.processes: {launch.processes} processes on {machine.cuda_devices} GPUs; use one process per GPU",
            param="launch.processes",
        )
    if launch.by == "torchrun":
        check_strategy(launch.strategy, cuda=cuda)
    if launch.strategy == "zero3" and recipe.quantization != "none":
        raise InvalidRecipe(
            "launch.strategy: zero3 cannot shard a quantized base; use fsdp2, or quantization: none",
            param="launch.strategy",
        )
    together = launch.world_size * optimization.micro_batch_size
    if optimization.batch_size % together:
        raise InvalidRecipe(
            f"optimization.batch_size: {optimization.batch_size} is not a multiple of {launch.world_size} processes x "
            f"micro_batch_size {optimization.micro_batch_size}; choose a multiple of {together}",
            param="optimization.batch_size",
        )


def _check_revision(recipe: Recipe, base: Base) -> None:
    """Hash the base only when the recipe names a revision: a large one takes minutes."""
    if recipe.base_revision is not None and (found := revision_of(base.path)) != recipe.base_revision:
        raise BaseNotFound(
            f"base_revision: the base in {base.path.name} is {found}; the recipe wants {recipe.base_revision}",
            param="base_revision",
        )


def _check_sizes(recipe: Recipe, base: Base, targets: tuple[str, ...]) -> None:
    if base.quantized:
        raise InvalidRecipe(
            f"base {base.path.name}: its weights are already quantized; "
            "give the 16-bit model and set quantization instead",
            param="base",
        )
    if base.max_positions and recipe.data.max_tokens > base.max_positions:
        raise InvalidRecipe(
            f"data.max_tokens: {recipe.data.max_tokens} is above the {base.max_positions} positions of the base; "
            "lower it",
            param="data.max_tokens",
        )
    smallest = min(min(base.linear[name]) for name in targets)
    if recipe.adapter.rank > smallest:
        raise InvalidRecipe(
            f"adapter.rank: {recipe.adapter.rank} is above {smallest}, the smallest side of the target layers; "
            "a low-rank update cannot have a higher rank than the layer: lower it",
            param="adapter.rank",
        )


def _check_disk(folder: Path, needed: int, machine: Machine) -> None:
    free = machine.free_bytes(folder)
    if free < needed:
        raise StorageFull(
            f"the disk under {folder.name} has {free // 2**20} MiB free and the training needs "
            f"{needed // 2**20} MiB for "
            "checkpoints and adapter; free some space, or lower checkpoints.keep",
            param="checkpoints.keep",
        )
