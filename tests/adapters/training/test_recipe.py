"""Recipes: strict, commented line by line, and refused in words when they contradict themselves."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from adapters.training.arguments import planned_steps
from adapters.training.errors import InvalidRecipe
from adapters.training.recipe import changed, load_recipe, parse_recipe, shipped, shipped_recipe
from adapters.training.sharding import check_strategy, deepspeed_config, fsdp_config

RECIPES = resources.files("adapters.training") / "recipes"


def test_every_kind_of_training_has_a_recipe() -> None:
    """Tiny on a CPU, 8B on one GPU, 7B in 4 bits, 70B twice, many machines."""
    kinds = {name: shipped_recipe(name) for name in shipped()}
    assert kinds["tiny-cpu"].optimization.precision == "float32"
    assert kinds["qlora-7b-4bit"].quantization == "4bit"
    assert kinds["lora-70b-fsdp2"].launch.strategy == "fsdp2"
    assert kinds["lora-70b-zero3"].launch.strategy == "zero3"
    assert kinds["lora-8b-multi-node"].launch.by == "ray"
    assert kinds["lora-8b-one-gpu"].launch.world_size == 1
    assert all(name == recipe.name for name, recipe in kinds.items())


@pytest.mark.parametrize("name", shipped())
def test_every_line_says_its_effect(name: str) -> None:
    """A value without a comment is a value nobody dares to change."""
    lines = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    bare = [line for line in lines if re.match(r"\s*\w+:\s*\S", line) and not re.search(r"\S\s+# \S", line)]
    assert bare == []
    assert lines[0].startswith("# ")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"name": "x", "base": "b", "learning_rate": 1}, "recipe test: learning_rate: there is no such field"),
        ({"name": "x", "base": "b", "adapter": {"rang": 8}}, r"adapter\.rang: there is no such field"),
        ({"name": "x"}, "base: Field required"),
        ({"name": "X Y", "base": "b"}, "name: String should match"),
        ({"name": "x", "base": "b", "adapter": {"rank": 0}}, r"adapter\.rank: Input should be greater"),
        (
            {"name": "x", "base": "b", "optimization": {"batch_size": 10, "micro_batch_size": 4}},
            "multiple of micro_batch_size",
        ),
        ({"name": "x", "base": "b", "evaluation": {"patience": 2}}, "patience needs every_steps"),
        ({"name": "x", "base": "b", "launch": {"processes": 2}}, "by: single is one process"),
        ({"name": "x", "base": "b", "launch": {"by": "torchrun", "nodes": 2}}, "rendezvous"),
        (
            {
                "name": "x",
                "base": "b",
                "evaluation": {"every_steps": 4, "patience": 2},
                "checkpoints": {"every_steps": 6},
            },
            "multiple of evaluation.every_steps",
        ),
    ],
)
def test_a_wrong_recipe_is_refused_by_field(raw: dict[str, Any], words: str) -> None:
    """Unknown fields by name, wrong values by rule, contradictions by both sides."""
    with pytest.raises(InvalidRecipe, match=words):
        parse_recipe(raw, source="test")


def test_a_recipe_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    """Missing, not YAML, not a mapping, not a shipped name."""
    broken = tmp_path / "broken.yaml"
    with pytest.raises(InvalidRecipe, match=r"no such file; the shipped ones are .*tiny-cpu"):
        load_recipe(broken)
    broken.write_text("a: [", encoding="utf-8")
    with pytest.raises(InvalidRecipe, match="not YAML"):
        load_recipe(broken)
    broken.write_text("[]", encoding="utf-8")
    with pytest.raises(InvalidRecipe, match="expected a mapping"):
        load_recipe(broken)
    with pytest.raises(InvalidRecipe, match="choose one of"):
        shipped_recipe("huge")


def test_changes_are_checked_as_the_recipe_is() -> None:
    """A dotted path that leads nowhere is refused; a good one changes one value and the hash."""
    tiny = shipped_recipe("tiny-cpu")
    made = changed(tiny, {"optimization.learning_rate": 1e-4}, source="test")
    assert made.optimization.learning_rate == 1e-4
    assert made.sha256 != tiny.sha256
    assert changed(made, {"optimization.learning_rate": 4e-3}, source="test").sha256 == tiny.sha256
    for path in ("optimization.speed", "optimisation.epochs"):
        with pytest.raises(InvalidRecipe, match="there is no such field"):
            changed(tiny, {path: 1}, source="test")


@pytest.mark.parametrize(
    ("changes", "rows", "steps"),
    [
        ({}, 1600, 300),
        ({}, 160, 150),
        ({}, 10, 50),
        ({"optimization.max_steps": 7}, 1600, 7),
        ({"optimization.min_steps": 0, "optimization.epochs": 2}, 33, 6),
    ],
)
def test_steps_are_epochs_stretched_for_small_data(changes: dict[str, Any], rows: int, steps: int) -> None:
    """At least min_steps, at most 50 epochs, exactly max_steps when it is set."""
    assert planned_steps(changed(shipped_recipe("tiny-cpu"), changes, source="test"), rows) == steps


def test_zero3_needs_its_library() -> None:
    """Where there are GPUs and no deepspeed, the message names the package; plain DDP needs nothing."""
    check_strategy("ddp", cuda=False)
    check_strategy("fsdp2", cuda=True)
    with pytest.raises(InvalidRecipe, match="pip install 'deepspeed"):
        check_strategy("zero3", cuda=True)


def test_sharding_says_what_the_recipe_says() -> None:
    """FSDP2 without offloading; ZeRO-3 with parameters offloaded and whole weights on save."""
    fsdp, zero = fsdp_config(shipped_recipe("lora-70b-fsdp2")), deepspeed_config(shipped_recipe("lora-70b-zero3"))
    assert (fsdp["version"], fsdp["cpu_offload"]) == (2, False)
    assert zero["zero_optimization"]["stage"] == 3
    assert zero["zero_optimization"]["offload_param"]["device"] == "cpu"
    assert zero["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True
