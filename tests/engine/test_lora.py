"""Which adapters are served, with vLLM's words for those that are not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine.errors import AdapterError, AdapterMissing, AdapterRefused
from app.engine.lora import Adapter, LoraRequest, load_adapter
from tests.engine.conftest import Assets
from tests.engine.tiny import write_adapter

REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "dora": ({"use_dora": True}, "vLLM does not yet support DoRA."),
    "bias": ({"bias": "all"}, "Adapter bias is not supported."),
    "lora_bias": ({"lora_bias": True}, "vLLM does not support LoRA bias (lora_bias)."),
    "modules": ({"modules_to_save": ["lm_head"]}, "Unsupported modules_to_save: ['lm_head']"),
    "rank": ({"r": 32}, "LoRA rank 32 is greater than max_lora_rank 8."),
    "rank_pattern": ({"rank_pattern": {"q_proj": 64}}, "LoRA rank 64 is greater than max_lora_rank 8."),
    "pissa": ({"init_lora_weights": "pissa"}, "vLLM does not support init_lora_weights='pissa'."),
    "alora": ({"alora_invocation_tokens": [1]}, "vLLM does not support Activated LoRA (aLoRA)."),
    "replication": ({"layer_replication": [[0, 1]]}, "vLLM does not support layer_replication."),
    "bdlora": ({"use_bdlora": {"nblocks": 2}}, "vLLM does not support block-diagonal LoRA (BD-LoRA)."),
    "qalora": ({"use_qalora": True}, "vLLM does not support QALoRA."),
    "zero": ({"r": 0}, "LoRA rank `r` must be a positive integer, got 0."),
    "zero_pattern": ({"rank_pattern": {"q_proj": 0}}, "LoRA rank for `q_proj` in `rank_pattern` must be a positive"),
    "no_rank": ({"r": ...}, "Missing required configuration fields: {'r'}"),
}


def load(path: str | Path, assets: Assets) -> Adapter:
    """Load a folder as the engine does, with a largest rank of 8."""
    return load_adapter(LoraRequest(1, "x", str(path)), assets.config, max_rank=8)


@pytest.mark.parametrize("case", REFUSALS)
def test_unservable_configurations_are_refused(case: str, assets: Assets, tmp_path: Path) -> None:
    """Every kind of adapter that vLLM does not serve is refused with vLLM's sentence."""
    overrides, sentence = REFUSALS[case]
    with pytest.raises(AdapterRefused) as caught:
        load(write_adapter(tmp_path / "x", assets.config, **overrides), assets)
    assert sentence in str(caught.value)


def test_all_reasons_are_named_at_once(assets: Assets, tmp_path: Path) -> None:
    """An adapter with three faults hears of all three, in vLLM's order."""
    path = write_adapter(tmp_path / "x", assets.config, use_dora=True, bias="all", r=64)
    with pytest.raises(AdapterRefused) as caught:
        load(path, assets)
    assert str(caught.value) == (
        "vLLM does not yet support DoRA. LoRA rank 64 is greater than max_lora_rank 8. Adapter bias is not supported."
    )


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal"])
def test_plain_initialisations_are_served(init: bool | str, assets: Assets, tmp_path: Path) -> None:
    """An initialisation that leaves the base weights alone is no reason to refuse."""
    assert load(write_adapter(tmp_path / "x", assets.config, init_lora_weights=init), assets).layers


@pytest.mark.parametrize("missing", ["nowhere", "file", "no_config"])
def test_a_missing_adapter_is_told_apart(missing: str, assets: Assets, tmp_path: Path) -> None:
    """No folder, a file instead of a folder, or a folder without configuration: not found, not broken."""
    path = tmp_path / "x"
    if missing == "file":
        path.write_text("")
    if missing == "no_config":
        (write_adapter(path, assets.config) / "adapter_config.json").unlink()
    with pytest.raises(AdapterMissing, match="Loading lora x failed: No adapter found for"):
        load(path, assets)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("config", "Expecting property name enclosed in double quotes"),
        ("absent", "doesn't contain tensors"),
        ("garbage", "header too small"),
        ("cut", "Error while deserializing"),
        ("pickle", "doesn't contain tensors"),
    ],
)
def test_broken_files_are_refused(damage: str, sentence: str, assets: Assets, tmp_path: Path) -> None:
    """Files that do not parse, and pickles, which are never opened, are refused."""
    path = write_adapter(tmp_path / "x", assets.config)
    tensors = path / "adapter_model.safetensors"
    if damage == "config":
        (path / "adapter_config.json").write_text("{bad")
    elif damage == "garbage":
        tensors.write_bytes(b"garb")
    elif damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:400])
    else:
        tensors.rename(path / "adapter_model.bin") if damage == "pickle" else tensors.unlink()
    with pytest.raises(AdapterRefused, match=sentence):
        load(path, assets)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("base_model.model.model.layers.0.mlp.foo_proj.lora_A.weight", r"received \['model.layers.0.mlp.foo_proj'\]"),
        ("base_model.model.model.layers.0.mlp.up_proj.magnitude", "is unsupported LoRA weight"),
        ("base_model.model.lm_head.lora_A.weight", "has only one of its two LoRA matrices"),
    ],
)
def test_unexpected_tensors_are_refused(name: str, sentence: str, assets: Assets, tmp_path: Path) -> None:
    """A tensor that belongs to no known module, or to no pair, is named in the refusal."""
    extra = {name: np.zeros((4, assets.config.hidden), np.float32)}
    with pytest.raises(AdapterError, match=sentence):
        load(write_adapter(tmp_path / "x", assets.config, extra=extra), assets)


def test_a_matrix_too_large_for_its_place_is_refused(assets: Assets, tmp_path: Path) -> None:
    """An adapter made for a wider model does not fit."""
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    extra = {name: np.zeros((4, 2 * assets.config.hidden), np.float32)}
    with pytest.raises(AdapterRefused, match="do not fit"):
        load(write_adapter(tmp_path / "x", assets.config, extra=extra), assets)


def test_a_narrow_matrix_is_padded_and_a_foreign_layer_ignored(assets: Assets, tmp_path: Path) -> None:
    """Like vLLM's preallocated slots: what is missing counts as zero, a layer nobody has changes nothing."""
    prefix = "base_model.model.model.layers"
    extra = {
        f"{prefix}.0.self_attn.q_proj.lora_A.weight": np.ones((4, 8), np.float32),
        f"{prefix}.99.mlp.up_proj.lora_A.weight": np.ones((4, assets.config.hidden), np.float32),
        f"{prefix}.99.mlp.up_proj.lora_B.weight": np.ones((assets.config.intermediate, 4), np.float32),
    }
    adapter = load(write_adapter(tmp_path / "x", assets.config, extra=extra), assets)
    a = adapter.layers[0]["q_proj"].a
    assert a.shape == (4, assets.config.hidden)
    assert a[:, :8].all()
    assert not a[:, 8:].any()


@pytest.mark.parametrize(
    ("overrides", "scale"),
    [
        ({"lora_alpha": 8}, 2.0),
        ({"lora_alpha": 8, "use_rslora": True}, 8 / math.sqrt(4)),
        ({"lora_alpha": 8, "alpha_pattern": {"q_proj": 4}}, 1.0),
        ({"lora_alpha": 8, "rank_pattern": {"layers.0.self_attn.q_proj": 8}}, 1.0),
        ({"lora_alpha": 8, "alpha_pattern": {"other_q_proj": 4}}, 2.0),
    ],
)
def test_scaling_follows_the_configuration(
    overrides: dict[str, Any], scale: float, assets: Assets, tmp_path: Path
) -> None:
    """Alpha / r, rsLoRA's alpha / sqrt(r), and patterns that match whole name parts only."""
    plain = load(write_adapter(tmp_path / "plain", assets.config, lora_alpha=4), assets)
    scaled = load(write_adapter(tmp_path / "x", assets.config, **overrides), assets)
    np.testing.assert_allclose(scaled.layers[0]["q_proj"].b, plain.layers[0]["q_proj"].b * scale, rtol=1e-6)
