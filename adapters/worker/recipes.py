"""The recipe of a job: the trainer's own for that base, changed by what the tenant asked for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from adapters.gateway import JobSpec
from adapters.training.errors import InvalidRecipe
from adapters.training.recipe import Recipe, changed, load_recipe, shipped_recipe
from adapters.worker.settings import BaseSettings

_RANGES = {"n_epochs": (1, 50), "batch_size": (1, 256)}


def recipe_for(job: JobSpec, base: BaseSettings) -> Recipe:
    """OpenAI's hyperparameters in a recipe's words: `auto` keeps the recipe's value."""
    if job.method != "supervised":
        raise InvalidRecipe(f"method: {job.method} is not offered on this base; use supervised", param="method")
    if job.recipe is not None and job.recipe not in base.recipes:
        known = ", ".join(base.recipes) or "none"
        raise InvalidRecipe(f"recipe: {job.recipe} is not offered on this base; there are: {known}", param="recipe")
    named = base.recipe if job.recipe is None else base.recipes[job.recipe]
    recipe = load_recipe(Path(named)) if named.endswith((".yaml", ".yml")) else shipped_recipe(named)
    return changed(recipe, {"base": job.model, "seed": job.seed, **_wanted(job, recipe)}, source=job.id)


def _wanted(job: JobSpec, recipe: Recipe) -> dict[str, Any]:
    asked = {name: value for name, value in job.hyperparameters.items() if value not in ("auto", None)}
    changes: dict[str, Any] = {}
    if "n_epochs" in asked:
        epochs = _whole("n_epochs", asked["n_epochs"])
        changes |= {"optimization.epochs": epochs, "optimization.min_steps": 0, "optimization.max_steps": None}
    if "batch_size" in asked:
        batch = _whole("batch_size", asked["batch_size"])
        world = recipe.launch.world_size
        if batch % world:
            raise InvalidRecipe(
                f"batch_size: this base is trained by {world} processes; use a multiple of it", param="batch_size"
            )
        micro = math.gcd(batch // world, recipe.optimization.micro_batch_size)
        changes |= {"optimization.batch_size": batch, "optimization.micro_batch_size": micro}
    if "learning_rate_multiplier" in asked:
        multiplier = asked["learning_rate_multiplier"]
        if isinstance(multiplier, bool) or not isinstance(multiplier, int | float) or not 0 < multiplier <= 100:
            raise InvalidRecipe(
                "learning_rate_multiplier: auto, or a number above 0 and up to 100", param="learning_rate_multiplier"
            )
        changes["optimization.learning_rate"] = recipe.optimization.learning_rate * multiplier
    return changes


def _whole(name: str, value: Any) -> int:
    low, high = _RANGES[name]
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidRecipe(f"{name}: auto, or a whole number from {low} to {high}", param=name)
    return value
