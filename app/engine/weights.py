"""Read a Hugging Face Llama folder: its configuration and its safetensors, as float32.

numpy has no bfloat16. A bfloat16 is the upper half of a float32, so it is read as uint16 and shifted up 16 bits: exact.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import deserialize

Array = npt.NDArray[np.float32]
_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


def read_tensors(path: Path) -> dict[str, Array]:
    """All tensors of one safetensors file; raises `safetensors.SafetensorError` for a file that is not one."""
    return {name: _float32(view) for name, view in _views(path.read_bytes())}


def _views(data: bytes) -> list[tuple[str, Mapping[str, Any]]]:
    return deserialize(data)  # type: ignore[no-untyped-call, no-any-return]  # the package's C half has no types


def _float32(view: Mapping[str, Any]) -> Array:
    shape, dtype, data = tuple(view["shape"]), str(view["dtype"]), view["data"]
    if dtype == "BF16":
        wide = np.frombuffer(data, dtype=np.uint16).astype(np.uint32) << 16
        return wide.view(np.float32).reshape(shape)
    if dtype not in _DTYPES:
        raise ValueError(f"tensor type {dtype} is not supported")
    return np.frombuffer(data, dtype=_DTYPES[dtype]).astype(np.float32).reshape(shape)


def read_model_tensors(folder: Path) -> dict[str, Array]:
    """The tensors of every safetensors file of a model folder (one file, or the shards of one model)."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no safetensors file")
    return {name: tensor for file in files for name, tensor in read_tensors(file).items()}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The part of a Llama `config.json` that the forward pass needs; `eos_ids[0]` is the model's own end token."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    norm_eps: float
    rope_theta: float
    max_positions: int
    tied: bool
    eos_ids: tuple[int, ...] = ()

    @property
    def q_size(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key (or value) heads."""
        return self.kv_heads * self.head_dim


def read_config(folder: Path) -> ModelConfig:
    """Read `config.json`; refuses what the forward pass does not do, rather than computing something else."""
    raw: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _refuse_unknown(raw)
    heads = int(raw["num_attention_heads"])
    rope = raw.get("rope_parameters") or {}
    return ModelConfig(
        hidden=int(raw["hidden_size"]),
        intermediate=int(raw["intermediate_size"]),
        layers=int(raw["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(raw.get("num_key_value_heads") or heads),
        head_dim=int(raw.get("head_dim") or raw["hidden_size"] // heads),
        vocab=int(raw["vocab_size"]),
        norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope_theta=float(rope.get("rope_theta", raw.get("rope_theta", 10000.0))),
        max_positions=int(raw.get("max_position_embeddings", 2048)),
        tied=bool(raw.get("tie_word_embeddings", False)),
        eos_ids=_ids(raw.get("eos_token_id")),
    )


def _ids(value: int | list[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def _refuse_unknown(raw: Mapping[str, Any]) -> None:
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    expected = {
        "model_type": (raw.get("model_type"), "llama"),
        "hidden_act": (raw.get("hidden_act", "silu"), "silu"),
        "attention_bias": (bool(raw.get("attention_bias", False)), False),
        "mlp_bias": (bool(raw.get("mlp_bias", False)), False),
        "rope_type": (rope_type, "default"),
    }
    for key, (found, wanted) in expected.items():
        if found != wanted:
            raise ValueError(f"config.json: {key} is {found!r}; the reference engine runs only {wanted!r}")


def read_generation_defaults(folder: Path) -> dict[str, Any]:
    """The model's own sampling defaults (`generation_config.json`), which vLLM applies where a request says nothing."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return {}
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return raw
