"""Adapter folders for tests: a valid one, and pieces to break."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MODULE = "base_model.model.model.layers.0.self_attn.q_proj"
CONFIG: Mapping[str, Any] = {
    "base_model_name_or_path": "base",
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj"],
}


def tensor(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    """One entry of a safetensors header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def header() -> dict[str, Any]:
    """A and B of one module, rank 2."""
    return {
        f"{MODULE}.lora_A.weight": tensor("F32", [2, 4], 0, 32),
        f"{MODULE}.lora_B.weight": tensor("F32", [4, 2], 32, 64),
    }


def weights(head: Any = None, data: bytes = b"\x00" * 64) -> bytes:
    """A whole file; `head` is an object, or raw bytes."""
    raw = head if isinstance(head, bytes) else json.dumps(header() if head is None else head).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def folder(path: Path, config: Any = None, file: bytes | None = None) -> Path:
    """A folder with this configuration (an object, or raw bytes) and these weights."""
    path.mkdir(parents=True, exist_ok=True)
    raw = config if isinstance(config, bytes) else json.dumps({**CONFIG, **(config or {})}).encode()
    (path / "adapter_config.json").write_bytes(raw)
    (path / "adapter_model.safetensors").write_bytes(weights() if file is None else file)
    return path
