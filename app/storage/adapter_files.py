"""Whether a LoRA adapter can be served: its configuration and its tensors against vLLM's rules, before it is stored.

The rules are those of vLLM's `lora/peft_helper.py`; an adapter that breaks one would be refused by every replica, or be
served wrongly. Keys of the configuration stand in a list, so that nothing can ride along (`auto_map`, code, templates).
No pattern of the configuration is ever run as a regular expression here, and patterns must be plain module names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from app.storage.safetensors_header import Tensor

MAX_RANK = 512  # vLLM's largest --max-lora-rank
KNOWN_KEYS = frozenset({
    "alora_invocation_tokens", "alpha_pattern", "arrow_config", "auto_mapping", "base_model_name_or_path", "bias",
    "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "init_lora_weights", "kasa_config", "layer_replication", "layers_pattern", "layers_to_transform",
    "loftq_config", "lora_alpha", "lora_bias", "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core",
    "modules_to_save", "monteclora_config", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern",
    "revision", "runtime_config", "target_modules", "target_parameters", "task_type", "trainable_token_indices",
    "use_bdlora", "use_dora", "use_qalora", "use_rslora", "velora_config",
})  # fmt: skip
MUST_BE_EMPTY = {
    "use_dora": "vLLM does not serve DoRA; train without use_dora, or merge it",
    "lora_bias": "vLLM does not serve LoRA biases; train with lora_bias=False",
    "alora_invocation_tokens": "vLLM does not serve activated LoRA (aLoRA)",
    "layer_replication": "vLLM does not serve layer_replication",
    "use_bdlora": "vLLM does not serve block-diagonal LoRA",
    "use_qalora": "vLLM does not serve QALoRA",
    "auto_mapping": "it names code of the model's author, which is not run here",
    "trainable_token_indices": "vLLM does not serve trained tokens",
    "target_parameters": "vLLM does not serve LoRA on bare parameters",
}
PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
SERVED_MODULES_TO_SAVE = frozenset({"classifier", "score"})
FLOATS = frozenset({"F16", "BF16", "F32"})
_PLAIN = re.compile(r"[A-Za-z0-9_.^$-]{1,200}")
_TENSOR = re.compile(
    r"base_model\.model\.(?P<module>[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*)\.lora_(?:embedding_)?(?P<half>[AB])(?:\.weight)?"
)


class Unservable(Exception):
    """The adapter cannot be served; the text names the field and the reason."""


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """What the gateway needs of an adapter's configuration."""

    base_model: str
    ranks: frozenset[int]
    target_modules: tuple[str, ...] | None  # None: a pattern that PEFT would run


def read_config(raw: bytes) -> LoraConfig:
    """Judge the bytes of an adapter_config.json; raises Unservable with the first reason."""
    try:
        config = msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise Unservable("it is not a JSON object") from exc
    unknown = sorted(set(config) - KNOWN_KEYS)
    if unknown:
        raise Unservable(f"the key '{_short(unknown[0])}' is not one of a LoRA configuration")
    if config.get("peft_type") != "LORA":
        raise Unservable("peft_type: expected LORA")
    for field, reason in MUST_BE_EMPTY.items():
        if config.get(field):
            raise Unservable(f"{field}: {reason}")
    _check_kind(config)
    return LoraConfig(_base_model(config), _ranks(config), _target_modules(config))


def check_tensors(tensors: Sequence[Tensor], config: LoraConfig) -> None:
    """Judge what the weights' header declares: pairs of A and B of the configured ranks; raises Unservable."""
    halves: dict[tuple[str, str], Tensor] = {}
    for tensor in tensors:
        found = _TENSOR.fullmatch(tensor.name)
        if found is None:
            raise Unservable("a tensor is not a LoRA weight of PEFT's naming (base_model.model.….lora_A.weight)")
        if tensor.dtype not in FLOATS:
            raise Unservable("a tensor is not of float16, bfloat16 or float32")
        halves[found["module"], found["half"]] = tensor
    for module in sorted({module for module, _ in halves}):
        _check_module(module, halves.get((module, "A")), halves.get((module, "B")), config)


def _check_module(module: str, a: Tensor | None, b: Tensor | None, config: LoraConfig) -> None:
    name = _short(module)
    if a is None or b is None:
        raise Unservable(f"{name}: only one of lora_A and lora_B is there")
    if len(a.shape) != 2 or len(b.shape) != 2 or 0 in (*a.shape, *b.shape):
        raise Unservable(f"{name}: lora_A and lora_B must be matrices")
    if a.shape[0] != b.shape[1] or a.shape[0] not in config.ranks:
        raise Unservable(f"{name}: the rank of its matrices is not that of the configuration")
    targets = config.target_modules
    if targets is not None and not any(module == target or module.endswith(f".{target}") for target in targets):
        raise Unservable(f"{name}: is not one of target_modules")


def _check_kind(config: Mapping[str, Any]) -> None:
    if config.get("bias", "none") not in (None, "none"):
        raise Unservable("bias: vLLM does not serve adapter biases; train with bias='none'")
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower() not in PLAIN_INITS:
        advice = "convert the adapter (PEFT: path_initial_model_for_weight_conversion)"
        raise Unservable(f"init_lora_weights: this way of starting changes the base model's weights; {advice}")
    saved = config.get("modules_to_save") or []
    if not isinstance(saved, list) or not set(map(str, saved)) <= SERVED_MODULES_TO_SAVE:
        raise Unservable("modules_to_save: vLLM serves none of these; train without it")


def _ranks(config: Mapping[str, Any]) -> frozenset[int]:
    ranks = {_rank(config.get("r"), "r")}
    ranks |= {_rank(rank, "rank_pattern") for rank in _pattern(config, "rank_pattern").values()}
    for field, alpha in (("lora_alpha", config.get("lora_alpha")), *_pattern_items(config, "alpha_pattern")):
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
            raise Unservable(f"{field}: expected a number above 0")
    return frozenset(ranks)


def _rank(value: Any, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_RANK:
        raise Unservable(f"{field}: expected a whole number from 1 to {MAX_RANK}")
    return value


def _pattern(config: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    pattern = config.get(field) or {}
    if not isinstance(pattern, dict) or not all(_PLAIN.fullmatch(key) for key in pattern):
        raise Unservable(f"{field}: expected plain module names")
    return pattern


def _pattern_items(config: Mapping[str, Any], field: str) -> list[tuple[str, Any]]:
    return [(field, value) for value in _pattern(config, field).values()]


def _target_modules(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    modules = config.get("target_modules")
    if isinstance(modules, str) and modules:
        return None
    if not isinstance(modules, list) or not modules or not all(isinstance(m, str) and m for m in modules):
        raise Unservable("target_modules: expected the names of the trained modules")
    return tuple(modules)


def _base_model(config: Mapping[str, Any]) -> str:
    base = config.get("base_model_name_or_path") or ""
    if not isinstance(base, str) or len(base) > 400 or not base.isprintable():
        raise Unservable("base_model_name_or_path: expected a name of at most 400 printable characters")
    return base


def _short(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text[:80])
