"""Reading and writing safetensors with numpy alone; bfloat16, which numpy does not know, comes out as float32."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.training.errors import NotServable

if TYPE_CHECKING:
    import numpy

_HEADER_LIMIT = 100_000_000


def read_tensors(file: Path) -> dict[str, numpy.ndarray[Any, Any]]:
    """Every tensor of a file as float32 (or its own integer type); NotServable when the file is damaged."""
    data = _bytes(file)
    size = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else _HEADER_LIMIT + 1
    try:
        if size > min(_HEADER_LIMIT, len(data) - 8):
            raise ValueError("the header is longer than the file")
        header = json.loads(data[8 : 8 + size])
        body = memoryview(data)[8 + size :]
        return {name: _array(entry, body) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise NotServable(f"{file.name} is cut off or not safetensors") from exc


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as exc:
        raise NotServable(f"{file.name} is missing; pickled weights (.bin, .pt) are never read") from exc


def _array(entry: dict[str, Any], body: memoryview) -> numpy.ndarray[Any, Any]:
    import numpy

    start, end = entry["data_offsets"]
    raw, shape = body[start:end], entry["shape"]
    if entry["dtype"] == "BF16":
        halves = numpy.frombuffer(raw, dtype="<u2").astype("<u4") << 16
        return halves.view("<f4").reshape(shape)
    kinds = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}
    return numpy.frombuffer(raw, dtype=kinds[entry["dtype"]]).astype("<f4").reshape(shape)
