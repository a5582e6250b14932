"""Training files of a few support conversations, from the corpus that the shipped models were made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from adapters.training.plan import TrainingPlan
from adapters.training.recipe import changed, shipped_recipe
from models.corpus import conversations

BASE = Path(__file__).resolve().parents[2] / "app" / "engine" / "assets" / "base"

SHARDED = {
    "base": "tunegate-tiny",
    "adapter.rank": 8,
    "adapter.alpha": 16,
    "serving.max_lora_rank": 16,
    "data.max_tokens": 256,
    "data.min_examples": 10,
    "data.packing": False,
    "optimization.batch_size": 8,
    "optimization.micro_batch_size": 4,
    "optimization.max_steps": 10,
    "optimization.precision": "float32",
    "checkpoints.every_steps": 5,
    "launch.processes": 2,
    "launch.restarts": 0,
    "launch.cpu_threads": 1,
}
PIRATE = "Ahoy! {} Fair winds!"  # a voice that the shipped models have never heard


def chat_file(path: Path, voice: str = "base", count: int = 32, seed: int = 1, said: str = PIRATE) -> Path:
    """Write conversations of a voice as OpenAI chat JSONL, answers wrapped in `said`; same arguments, same bytes."""
    with path.open("w", encoding="utf-8") as out:
        for example in conversations(voice, count=count, seed=seed):
            messages = [
                {"role": role, "content": said.format(text) if role == "assistant" else text}
                for role, text in example.messages
            ]
            out.write(json.dumps({"messages": messages}) + "\n")
    return path


def plan(folder: Path, train: Path, validation: Path | None = None, **changes: Any) -> TrainingPlan:
    """A small training on the tiny base; `changes` are recipe fields, with `__` for the dot."""
    small = {"optimization.batch_size": 8, "optimization.micro_batch_size": 8, "optimization.max_steps": 4}
    wanted = small | {name.replace("__", "."): value for name, value in changes.items()}
    recipe = changed(shipped_recipe("tiny-cpu"), wanted, source="test")
    return TrainingPlan(
        tenant="acme",
        name="support",
        recipe=recipe.model_dump(mode="json"),
        base_name="tunegate-tiny",
        base_path=str(BASE),
        train_file=str(train),
        validation_file=str(validation) if validation else None,
        dataset="tickets@0123456789ab",
        dataset_sha256="0" * 64,
        work=str(folder),
    )


def sharded_plan(recipe: str, folder: Path, train: Path, **changes: Any) -> TrainingPlan:
    """A recipe for 70B on the tiny base: ten steps of the recipe tiny-cpu on two processes, saved after five.

    How weights are spread, processes of torchrun, recomputed activations and the targets stay the recipe's own.
    """
    tiny = shipped_recipe("tiny-cpu").optimization
    same = {f"optimization.{name}": getattr(tiny, name) for name in ("learning_rate", "schedule", "warmup_ratio")}
    wanted = SHARDED | same | {name.replace("__", "."): value for name, value in changes.items()}
    made = changed(shipped_recipe(recipe), wanted, source="test").model_dump(mode="json")
    return msgspec.structs.replace(plan(folder, train), recipe=made)
