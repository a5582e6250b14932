"""Reading safetensors with numpy alone; bfloat16, which numpy does not know, comes out as float32."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from adapters.training.errors import NotServable

_HEADER_LIMIT = 100_000_000
_KINDS = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}

Array = np.ndarray[Any, Any]


def read_tensors(file: Path) -> dict[str, Array]:
    """Every tensor of a file as float32; NotServable when the file is missing or damaged."""
    data = _bytes(file)
    size = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else _HEADER_LIMIT
    try:
        header = json.loads(data[8 : 8 + min(size, _HEADER_LIMIT)])
        body = memoryview(data)[8 + size :]
        return {name: _array(entry, body) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as exc:
        raise NotServable(f"{file.name} is cut off or not safetensors") from exc


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as exc:
        raise NotServable(f"{file.name} is missing; pickled weights (.bin, .pt) are never read") from exc


def _array(entry: dict[str, Any], body: memoryview) -> Array:
    start, end = entry["data_offsets"]
    raw, shape = body[start:end], entry["shape"]
    if entry["dtype"] == "BF16":
        return (np.frombuffer(raw, dtype="<u2").astype("<u4") << 16).view("<f4").reshape(shape)
    return np.frombuffer(raw, dtype=_KINDS[entry["dtype"]]).astype("<f4").reshape(shape)
