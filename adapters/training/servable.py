"""The gate of servability: what vLLM would refuse is refused before the first step, and once more before the upload.

Source of the rules: vLLM 0.33, `lora/peft_helper.py` and `config/lora.py`; they are vLLM's, not ours, and a newer vLLM
may accept more. An adapter of another kind can still be trained for research with `serving.servable: false`; it is then
never registered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adapters.training.base_model import Base
from adapters.training.errors import NotServable
from adapters.training.recipe import Recipe
from adapters.training.tensors import read_tensors

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "true"})
_UNSERVED_FIELDS = ("use_dora", "lora_bias", "alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora")


def check_recipe(recipe: Recipe) -> None:
    """Refuse a recipe whose adapter the replicas could not serve."""
    if not recipe.serving.servable:
        return
    if recipe.serving.max_lora_rank not in VLLM_RANKS:
        ranks = ", ".join(map(str, VLLM_RANKS))
        raise NotServable(f"serving.max_lora_rank: vLLM knows {ranks}", param="serving.max_lora_rank")
    if recipe.adapter.rank > recipe.serving.max_lora_rank:
        raise NotServable(
            f"adapter.rank: {recipe.adapter.rank} is above the replicas' "
            f"--max-lora-rank {recipe.serving.max_lora_rank}; "
            "lower the rank, or start the replicas with a higher limit and say so in serving.max_lora_rank",
            param="adapter.rank",
        )
    if recipe.adapter.kind == "dora":
        raise NotServable(
            "adapter.kind: vLLM does not serve DoRA; use lora or rslora, or set serving.servable: false for research",
            param="adapter.kind",
        )


def check_adapter(folder: Path, base: Base, *, max_lora_rank: int) -> None:
    """Refuse a finished adapter that vLLM would not load, would load wrongly, or that changes nothing."""
    config = _config(folder)
    reasons = [*_config_reasons(config, max_lora_rank), *_tensor_reasons(folder, base)]
    if reasons:
        raise NotServable(f"adapter {folder.name}: {'; '.join(reasons)}")


def _config(folder: Path) -> dict[str, Any]:
    try:
        loaded = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as exc:
        raise NotServable(f"adapter {folder.name}: {CONFIG_FILE} is missing or not JSON") from exc
    return dict(loaded)


def _config_reasons(config: Mapping[str, Any], max_lora_rank: int) -> list[str]:
    reasons = [f"vLLM does not serve {field}" for field in _UNSERVED_FIELDS if config.get(field)]
    init = str(config.get("init_lora_weights", True)).lower()
    if init not in _PLAIN_INITS:
        reasons.append(f"vLLM does not serve init_lora_weights={init}: it changes the base's own weights")
    if config.get("bias", "none") != "none":
        reasons.append("vLLM does not serve bias")
    if set(config.get("modules_to_save") or ()) - {"classifier", "score"}:
        reasons.append("vLLM does not serve modules_to_save")
    rank = max([int(config.get("r", 0)), *(config.get("rank_pattern") or {}).values()])
    if not 0 < rank <= max_lora_rank:
        reasons.append(f"rank {rank} is not between 1 and the replicas' --max-lora-rank {max_lora_rank}")
    return reasons


def _tensor_reasons(folder: Path, base: Base) -> list[str]:
    """Every tensor belongs to a linear layer of the base, has its shape, and is a number; some B is not zero."""
    tensors = read_tensors(folder / WEIGHTS_FILE)
    reasons, moved = [], False
    for name, array in tensors.items():
        module, side = name.removesuffix(".weight").rsplit(".", 1) if name.endswith(".weight") else (name, "")
        sizes = base.linear.get(module.rsplit(".", 1)[-1])
        if side not in ("lora_A", "lora_B") or sizes is None:
            reasons.append(f"unexpected tensor {name}")
        elif array.shape[1 if side == "lora_A" else 0] != sizes[1 if side == "lora_A" else 0]:
            reasons.append(f"{name} has shape {array.shape}, which does not fit the base")
        elif not _finite(array):
            reasons.append(f"{name} holds values that are not numbers")
        moved = moved or (side == "lora_B" and bool(array.any()))
    if not moved:
        reasons.append("every lora_B is zero: it would answer exactly as the base does")
    return reasons[:5]


def _finite(array: np.ndarray[Any, Any]) -> bool:
    return bool(np.isfinite(array).all())
