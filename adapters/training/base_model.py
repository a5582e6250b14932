"""What a base model's folder says of itself, read without torch: its shape, its linear layers, its revision.

Only `config.json` and the headers of the safetensors files are read for the shape, so a 70B model costs milliseconds.
The revision is the commit of a hub snapshot when the folder is one, and else the SHA-256 over the content of every file
that decides the model's answers.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.training.errors import BaseNotFound

_HEADER_LIMIT = 100_000_000
_COUNTED = (".safetensors", ".json", ".jinja", ".model")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.(.+)\.weight$")


@dataclass(frozen=True, slots=True)
class Base:
    """A base model on disk. `linear` maps the last part of a layer's name to its (output, input) sizes."""

    path: Path
    architecture: str
    layers: int
    hidden_size: int
    max_positions: int
    parameters: int
    quantized: bool
    linear: Mapping[str, tuple[int, int]]


def read_base(path: Path) -> Base:
    """Describe the model in a folder; BaseNotFound says which file is missing or broken."""
    config = _json(path / "config.json", path)
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise BaseNotFound(f"base model {path}: no *.safetensors file; pickled weights are not read", param="base")
    shapes = {name: shape for file in files for name, shape in _shapes(file).items()}
    return Base(
        path=path,
        architecture=next(iter(config.get("architectures") or ["unknown"])),
        layers=int(config.get("num_hidden_layers", 0)),
        hidden_size=int(config.get("hidden_size", 0)),
        max_positions=int(config.get("max_position_embeddings", 0)),
        parameters=sum(_product(shape) for shape in shapes.values()),
        quantized="quantization_config" in config,
        linear=_linear(shapes),
    )


def revision_of(path: Path) -> str:
    """The commit of a hub snapshot, or `sha256:` and the hash over names and bytes of the model's files."""
    resolved = path.resolve()
    if resolved.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", resolved.name):
        return resolved.name
    digest = hashlib.sha256()
    for file in sorted(file for file in path.iterdir() if file.suffix in _COUNTED):
        with file.open("rb") as opened:
            digest.update(f"{file.name} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _json(file: Path, folder: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        reason = f"no {file.name} in it" if folder.is_dir() else "no such folder"
        raise BaseNotFound(f"base model {folder}: {reason}; give the path of a downloaded model", param="base") from exc
    except ValueError as exc:
        raise BaseNotFound(f"base model {folder}: {file.name} is not JSON", param="base") from exc
    return dict(loaded)


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Tensor shapes from a safetensors header: eight bytes of length, then JSON."""
    with file.open("rb") as opened:
        prefix = opened.read(8)
        size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else _HEADER_LIMIT + 1
        text = opened.read(size) if size <= _HEADER_LIMIT else b""
    try:
        header = json.loads(text)
        return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BaseNotFound(
            f"base model {file.parent}: {file.name} is cut off or not safetensors", param="base"
        ) from exc


def _linear(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """Matrices inside the numbered layers; embeddings and the output head are not among them."""
    found: dict[str, tuple[int, int]] = {}
    for name, shape in sorted(shapes.items()):
        matched = _LAYER.search(name)
        if matched and len(shape) == 2:
            found.setdefault(matched[2].rsplit(".", 1)[-1], (shape[0], shape[1]))
    return found


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result
