"""FSDP2 for real, on two CPU processes over gloo: the recipe of the 70B model, made small enough for the tiny base."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from adapters.training.artifact import read_manifest
from adapters.training.checkpoints import is_whole, whole
from adapters.training.distributed import torchrun_arguments
from adapters.training.plan import TrainingPlan, write_plan
from adapters.training.progress import ProgressReader
from adapters.training.tensors import read_tensors
from app.storage.artifacts import import_adapter
from tests.adapters.training.test_session import CURVE
from tests.support.training_data import chat_file, sharded_plan

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> TrainingPlan:
    """Ten steps on two processes, with a checkpoint in the middle, done."""
    folder = tmp_path_factory.mktemp("sharded")
    wanted = sharded_plan("lora-70b-fsdp2", folder / "ten", chat_file(folder / "train.jsonl"))
    train(wanted)
    return wanted


def train(wanted: TrainingPlan) -> None:
    """As `train_by_torchrun` does, with ranks that offer FSDP2 on a CPU."""
    arguments = torchrun_arguments(wanted.parsed_recipe().launch, write_plan(wanted), "tests.support.fsdp2_rank")
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]


def losses(wanted: TrainingPlan) -> list[float]:
    """The training loss of every step that was told."""
    told = ProgressReader(wanted.progress_file).read()
    return [one.train_loss for one in told if one.kind == "step" and one.train_loss is not None]


def test_two_sharded_processes_walk_the_curve_of_a_single_one(sharded: TrainingPlan) -> None:
    """The very curve that is pinned for one process; the adapter is whole, and the gateway takes it."""
    assert losses(sharded) == pytest.approx(CURVE, rel=0.01, abs=5e-3)
    manifest = read_manifest(sharded.adapter)
    assert manifest is not None
    imported = import_adapter(sharded.folder / "store", "acme", "support", str(sharded.adapter))
    assert (imported.sha256, imported.rank) == (manifest.sha256, 8)
    tensors = read_tensors(sharded.adapter / "adapter_model.safetensors")
    assert len(tensors) == 4 * 7 * 2  # layers, linear layers in each, A and B
    assert all(tensor.any() for tensor in tensors.values())


def test_a_sharded_training_resumes_from_its_checkpoint(sharded: TrainingPlan) -> None:
    """Every process had written its own part; with them the rest of the curve is the same, and so is the adapter."""
    assert [path.name for path in whole(sharded.checkpoints)] == ["checkpoint-5", "checkpoint-10"]
    again = msgspec.structs.replace(sharded, work=str(sharded.folder.parent / "again"))
    shutil.copytree(sharded.checkpoints / "checkpoint-5", again.checkpoints / "checkpoint-5")
    assert is_whole(again.checkpoints / "checkpoint-5")
    train(again)
    assert losses(again) == pytest.approx(losses(sharded)[5:], abs=1e-4)
    one, other = (read_tensors(made.adapter / "adapter_model.safetensors") for made in (sharded, again))
    assert one.keys() == other.keys()
    assert max(abs(one[name] - other[name]).max() for name in one) < 1e-4


BUILD = """
import json, sys
from pathlib import Path
import torch.distributed as group
from accelerate import FullyShardedDataParallelPlugin
from adapters.training.arguments import training_arguments
from adapters.training.quantization import quantization_config
from adapters.training.recipe import shipped, shipped_recipe
from tests.support.training_data import plan

group.init_process_group("gloo", store=group.HashStore(), rank=0, world_size=1)
for name in shipped():
    recipe = shipped_recipe(name)
    if recipe.launch.strategy != "zero3":
        made = training_arguments(recipe, plan(Path("w"), Path("t")), cuda=False, validates=True)
        plugin = FullyShardedDataParallelPlugin(**made.fsdp_plugin_args) if made.fsdp else None
        bits = quantization_config(recipe.quantization)
        print(json.dumps([name, made.gradient_accumulation_steps, plugin and plugin.fsdp_version,
                          bits and bits.bnb_4bit_quant_type]))
"""


def test_every_recipe_is_one_that_the_libraries_take() -> None:
    """Built with their own checks; ZeRO-3's, which needs deepspeed, is built by `prove.training_runs --only zero3`."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD], cwd=ROOT, capture_output=True, text=True, check=True, timeout=240
    )
    assert [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("[")] == [
        ["lora-70b-fsdp2", 4, 2, None],
        ["lora-8b-multi-node", 2, None, None],
        ["lora-8b-one-gpu", 16, None, None],
        ["qlora-7b-4bit", 16, None, "nf4"],
        ["tiny-cpu", 2, None, None],
    ]
