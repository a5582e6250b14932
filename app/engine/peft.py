"""What a PEFT adapter's configuration says, and vLLM's rules on which adapters it serves.

Source of the rules and of their wording: vLLM `lora/peft_helper.py` (read, 0.32). Clients classify refusals by these
texts, since every one of them has the status 500. Fields that vLLM ignores (`fan_in_fan_out`, `target_modules`, whose
truth is the tensor file) are ignored here.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.engine.errors import AdapterRefused

_REQUIRED = ("r", "lora_alpha", "target_modules")
_PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
_UNSUPPORTED = {
    "use_dora": "vLLM does not yet support DoRA.",
    "lora_bias": "vLLM does not support LoRA bias (lora_bias).",
    "init_lora_weights": (
        "vLLM does not support init_lora_weights={value!r}. Inits such as PiSSA, OLoRA, CorDA and LoftQ modify the base"
        " model weights when PEFT loads the adapter. Convert it to a regular LoRA adapter with PEFT's"
        " path_initial_model_for_weight_conversion, or set init_lora_weights to true if the served base model already"
        " contains the modified weights."
    ),
    "alora_invocation_tokens": "vLLM does not support Activated LoRA (aLoRA).",
    "layer_replication": "vLLM does not support layer_replication.",
    "use_bdlora": "vLLM does not support block-diagonal LoRA (BD-LoRA).",
    "use_qalora": "vLLM does not support QALoRA.",
}


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Rank and scaling of an adapter, with its overrides by module-name pattern."""

    rank: int
    alpha: float
    rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]

    def scaling(self, module: str) -> float:
        """Alpha / r, or alpha / sqrt(r) for rsLoRA, of one module named without PEFT's prefix."""
        rank = _matched(self.rank_pattern, module, self.rank)
        alpha = _matched(self.alpha_pattern, module, self.alpha)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


def _matched(pattern: Mapping[str, float], module: str, default: float) -> float:
    """Find the first pattern that matches the end of the name at a dot: PEFT's own rule."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def read_lora_config(folder: Path, *, max_rank: int) -> LoraConfig:
    """Read and judge `adapter_config.json`; FileNotFoundError if there is none, AdapterRefused if vLLM would not."""
    text = (folder / "adapter_config.json").read_text(encoding="utf-8")
    try:
        raw: dict[str, Any] = json.loads(text)
    except ValueError as exc:
        raise AdapterRefused(str(exc)) from exc
    missing = sorted(name for name in _REQUIRED if name not in raw)
    if missing:
        names = ", ".join(repr(name) for name in missing)
        raise AdapterRefused(f"Missing required configuration fields: {{{names}}}")
    config = LoraConfig(
        rank=raw["r"],
        alpha=raw["lora_alpha"],
        rslora=bool(raw.get("use_rslora")),
        rank_pattern=raw.get("rank_pattern") or {},
        alpha_pattern=raw.get("alpha_pattern") or {},
    )
    _check_ranks(config)
    problems = _refusals(raw, config, max_rank)
    if problems:
        raise AdapterRefused(" ".join(problems))
    return config


def _check_ranks(config: LoraConfig) -> None:
    if config.rank <= 0:
        raise AdapterRefused(f"LoRA rank `r` must be a positive integer, got {config.rank}.")
    for key, rank in config.rank_pattern.items():
        if not isinstance(rank, int) or rank <= 0:
            raise AdapterRefused(f"LoRA rank for `{key}` in `rank_pattern` must be a positive integer, got {rank}.")


def _refusals(raw: Mapping[str, Any], config: LoraConfig, max_rank: int) -> list[str]:
    """Every reason at once, in vLLM's order."""
    problems = []
    unsaved = [name for name in raw.get("modules_to_save") or () if name not in ("classifier", "score")]
    if unsaved:
        problems.append(
            'vLLM only supports modules_to_save being either None or ["classifier", "score"] for classification models.'
            f" Unsupported modules_to_save: {unsaved}",
        )
    for field, text in _UNSUPPORTED.items():
        value = raw.get(field)
        plain_init = field == "init_lora_weights" and not (isinstance(value, str) and value.lower() not in _PLAIN_INITS)
        if value and not plain_init:
            problems.append(text.format(value=value))
    rank = max([config.rank, *config.rank_pattern.values()])
    if rank > max_rank:
        problems.append(f"LoRA rank {rank} is greater than max_lora_rank {max_rank}.")
    if raw.get("bias", "none") != "none":
        problems.append("Adapter bias is not supported.")
    return problems
