"""Refused before the first step: base, rank, machine, disk, examples, and what vLLM would not serve."""

from __future__ import annotations

import errno
import json
import math
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from safetensors import SafetensorError

from adapters.training.base_model import Base, read_base, revision_of
from adapters.training.callbacks import check_loss
from adapters.training.disk import free_bytes, says_full
from adapters.training.errors import (
    BaseNotFound,
    Diverged,
    InvalidRecipe,
    NotServable,
    StorageFull,
    TooFewExamples,
    TrainingError,
    TrainingFailed,
)
from adapters.training.preflight import Machine, check, disk_need, this_machine
from adapters.training.process import training
from adapters.training.quantization import check_optimizer, check_quantization
from adapters.training.servable import check_adapter
from adapters.training.target_modules import adapter_parameters, chosen_targets
from tests.support.training_data import BASE, chat_file, plan

SHIPPED = BASE.parent / "adapters" / "acme"
CPU = Machine(0, free_bytes)
LINEAR = {"q_proj": (192, 192), "k_proj": (64, 192), "down_proj": (192, 512)}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Twelve conversations."""
    return chat_file(tmp_path / "train.jsonl", count=12)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A shipped adapter to be spoiled."""
    return Path(shutil.copytree(SHIPPED, tmp_path / "adapter"))


def test_a_base_is_read_without_loading_it() -> None:
    """Shape, linear layers and their sizes, from configuration and headers."""
    base = read_base(BASE)
    assert (base.layers, base.hidden_size, base.max_positions, base.quantized) == (4, 192, 1024, False)
    assert base.linear["down_proj"] == (192, 512)
    assert set(base.linear) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert 1_700_000 < base.parameters < 1_900_000


def test_a_revision_is_the_content_or_the_hubs_commit(tmp_path: Path) -> None:
    """Renaming the folder changes nothing, a changed byte does, and a snapshot is its commit."""
    copy = Path(shutil.copytree(BASE, tmp_path / "copy"))
    assert revision_of(copy) == revision_of(BASE)
    (copy / "config.json").write_text("{}", encoding="utf-8")
    assert revision_of(copy) != revision_of(BASE)
    snapshot = tmp_path / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    assert revision_of(snapshot) == "a" * 40


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda base: (base / "config.json").unlink(), r"no config\.json in it"),
        (lambda base: (base / "config.json").write_text("{"), r"config\.json is not JSON"),
        (lambda base: (base / "model.safetensors").unlink(), "pickled weights are not read"),
        (lambda base: (base / "model.safetensors").write_bytes(b"abc"), "cut off or not safetensors"),
        (lambda base: (base / "model.safetensors").write_bytes(b"\xff" * 64), "cut off or not safetensors"),
    ],
)
def test_an_absent_or_broken_base_is_refused(tmp_path: Path, spoil: Any, words: str) -> None:
    """The message says which file is missing or broken."""
    base = Path(shutil.copytree(BASE, tmp_path / "base"))
    spoil(base)
    with pytest.raises(BaseNotFound, match=words):
        read_base(base)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"base_revision": "sha256:0"}, BaseNotFound, "the recipe wants sha256:0"),
        ({"adapter__rank": 32}, NotServable, "above the replicas' --max-lora-rank 16"),
        ({"adapter__rank": 128, "serving__max_lora_rank": 128}, InvalidRecipe, "above 64, the smallest side"),
        ({"serving__max_lora_rank": 24}, NotServable, "vLLM knows 1, 8, 16"),
        ({"adapter__kind": "dora"}, NotServable, "vLLM does not serve DoRA"),
        ({"adapter__targets": ("q_proj", "w1")}, InvalidRecipe, "w1: the base model has down_proj"),
        ({"data__max_tokens": 4096}, InvalidRecipe, "above the 1024 positions"),
        ({"data__min_examples": 100}, TooFewExamples, "12 examples are too few, 100 are needed"),
        ({"optimization__optimizer": "paged_adamw_8bit"}, InvalidRecipe, "use adamw_8bit or adamw_torch"),
        (
            {"launch__by": "torchrun", "launch": {"by": "torchrun", "processes": 3}},
            InvalidRecipe,
            "not a multiple of 3 processes",
        ),
        ({"launch": {"by": "torchrun", "processes": 1, "strategy": "zero3"}}, InvalidRecipe, "zero3 needs CUDA"),
        ({"launch": {"by": "torchrun", "processes": 1, "strategy": "fsdp2"}}, InvalidRecipe, "fsdp2 needs CUDA"),
    ],
)
def test_a_training_that_cannot_end_well_does_not_start(
    tmp_path: Path, rows: Path, changes: dict[str, Any], error: type[TrainingError], words: str
) -> None:
    """Refused by the field to change, with nothing written."""
    changes = {name: value for name, value in changes.items() if name != "launch__by"}
    with pytest.raises(error, match=words):
        check(plan(tmp_path / "work", rows, **changes), CPU)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("name", ["A b", "a--b", "-a", "a_b", "", "x" * 64])
def test_a_name_that_no_store_takes_is_refused_first(tmp_path: Path, rows: Path, name: str) -> None:
    """The gateway would refuse it too, but only once everything has been trained."""
    for field in ("name", "tenant"):
        wanted = msgspec.structs.replace(plan(tmp_path / "work", rows), **{field: name})
        with pytest.raises(InvalidRecipe, match=f"{field}: .*use small letters, digits and single hyphens"):
            check(wanted, CPU)


def test_a_full_disk_is_known_in_whatever_words() -> None:
    """The system's errors, safetensors' text, torch's silence about the reason; other failures are not a full disk."""
    for error in (
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    ):
        assert says_full(error)
    assert not says_full(OSError(errno.EACCES, "Permission denied"))
    assert not says_full(RuntimeError("CUDA out of memory"))


async def test_a_disk_that_fills_while_it_trains_is_said(tmp_path: Path, rows: Path) -> None:
    """A real write that fails in the middle: the reason comes out of the training process, and no adapter is there."""
    wanted = plan(tmp_path / "work", rows, checkpoints__every_steps=1)
    program = ("sh", "-c", 'ulimit -f 100; exec "$0" "$@"', sys.executable, "-W", "ignore", "-m", "adapters.training")
    async with training(wanted, program) as process:
        async for _ in process.steps(0.1):
            pass
        with pytest.raises(StorageFull, match="is full; free some space and start again"):
            process.check()
    assert not wanted.adapter.exists()


async def test_a_disk_too_full_for_the_reason_is_said_too(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends without a word, because there is no room for one."""
    wanted = plan(tmp_path / "work", rows)
    async with training(wanted, ("false",)) as process:
        async for _ in process.steps(0.1):
            pass
        with pytest.raises(TrainingFailed, match="ended with status 1"):
            process.check()
        monkeypatch.setattr("adapters.training.disk.shutil.disk_usage", lambda _: SimpleNamespace(free=0))
        with pytest.raises(StorageFull, match="is full"):
            process.check()


def test_a_full_disk_is_refused_with_figures(tmp_path: Path, rows: Path) -> None:
    """What is free, what is needed, and what to lower."""
    with pytest.raises(StorageFull, match=r"has 10 MiB free and the training needs 6\d MiB") as caught:
        check(plan(tmp_path / "work", rows), Machine(0, lambda _: 10 * 2**20))
    assert caught.value.param == "checkpoints.keep"
    assert disk_need(1_000_000, 2) > disk_need(1_000_000, 1)


def test_more_processes_than_gpus_are_refused(tmp_path: Path, rows: Path) -> None:
    """One process per GPU."""
    wanted = plan(tmp_path / "work", rows, launch={"by": "torchrun", "processes": 4}, optimization__micro_batch_size=2)
    with pytest.raises(InvalidRecipe, match="4 processes on 2 GPUs"):
        check(wanted, Machine(2, free_bytes))


def test_a_good_training_is_let_through(tmp_path: Path, rows: Path) -> None:
    """And what the checks found is handed on."""
    checked = check(plan(tmp_path / "work", rows), this_machine())
    assert len(checked.targets) == 7
    assert checked.adapter_parameters == 108_544  # as the shipped adapters of rank 8 have


@pytest.mark.parametrize("kind", ["4bit", "8bit"])
def test_quantization_needs_its_library(kind: str) -> None:
    """Without bitsandbytes the message names the package; what needs nothing is let through."""
    check_quantization("none", installed=False)
    check_optimizer("adamw_torch", installed=False, cuda=False)
    check_optimizer("paged_adamw_8bit", installed=True, cuda=True)
    with pytest.raises(InvalidRecipe, match="pip install 'bitsandbytes"):
        check_quantization(kind, installed=False)
    with pytest.raises(InvalidRecipe, match="needs the package bitsandbytes"):
        check_optimizer("adamw_8bit", installed=False, cuda=True)


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("auto", ("down_proj", "k_proj", "q_proj")),
        ("all", ("down_proj", "k_proj", "q_proj")),
        ("attention", ("k_proj", "q_proj")),
        ("mlp", ("down_proj",)),
        (("q_proj",), ("q_proj",)),
    ],
)
def test_targets_are_chosen_or_named(wanted: Any, chosen: tuple[str, ...]) -> None:
    """By family or by name, in a fixed order."""
    assert chosen_targets(wanted, LINEAR) == chosen
    assert adapter_parameters(8, ("k_proj",), LINEAR, 4) == 4 * 8 * (64 + 192)


def test_targets_that_are_not_there_are_refused() -> None:
    """With the names that are."""
    with pytest.raises(InvalidRecipe, match="no linear layers"):
        chosen_targets("auto", {})
    with pytest.raises(InvalidRecipe, match="name some of odd"):
        chosen_targets("mlp", {"odd": (1, 1)})


@pytest.fixture(scope="module")
def base() -> Base:
    """The tiny base."""
    return read_base(BASE)


def test_the_shipped_adapters_pass_the_gate(base: Base) -> None:
    """All three."""
    for tenant in ("acme", "bloom", "corvid"):
        check_adapter(SHIPPED.parent / tenant, base, max_lora_rank=8)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"use_dora": True}, "does not serve use_dora"),
        ({"bias": "lora_only"}, "does not serve bias"),
        ({"modules_to_save": ["lm_head"]}, "does not serve modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
        ({"r": 32}, "rank 32 is not between 1 and the replicas' --max-lora-rank 16"),
        ({"rank_pattern": {"q_proj": 64}}, "rank 64"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    ],
)
def test_what_vllm_would_refuse_is_refused(copied: Path, base: Base, config: dict[str, Any], words: str) -> None:
    """By its configuration."""
    path = copied / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | config), encoding="utf-8")
    with pytest.raises(NotServable, match=words):
        check_adapter(copied, base, max_lora_rank=16)


def _rewrite(folder: Path, change: Any) -> None:
    from safetensors.numpy import save_file

    from adapters.training.tensors import read_tensors

    file = folder / "adapter_model.safetensors"
    save_file(change(read_tensors(file)), file)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {name: array * ("lora_A" in name) for name, array in t.items()}, "every lora_B is zero"),
        (lambda t: {name: array * math.nan for name, array in t.items()}, "not numbers"),
        (lambda t: {name.replace("q_proj", "w_proj"): array for name, array in t.items()}, "unexpected tensor"),
        (lambda t: {name: array[:, :5].copy() for name, array in t.items()}, "does not fit the base"),
    ],
)
def test_weights_that_would_be_served_wrongly_are_refused(copied: Path, base: Base, change: Any, words: str) -> None:
    """By their values and shapes; an adapter that changes nothing is refused too."""
    _rewrite(copied, change)
    with pytest.raises(NotServable, match=words):
        check_adapter(copied, base, max_lora_rank=16)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), "missing or not JSON"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "never read"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"\x01"), "cut off"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"\x02" + b"\0" * 7 + b"[]"), "cut off"),
    ],
)
def test_an_incomplete_adapter_is_refused(copied: Path, base: Base, spoil: Any, words: str) -> None:
    """Whatever is missing or cut off."""
    spoil(copied)
    with pytest.raises(NotServable, match=words):
        check_adapter(copied, base, max_lora_rank=16)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_a_number_ends_the_training(loss: float) -> None:
    """The error names the step and the field to lower."""
    check_loss(1.0, 6)
    with pytest.raises(Diverged, match=r"at step 7; lower optimization\.learning_rate"):
        check_loss(loss, 7)
