"""Load a PEFT LoRA adapter folder into matrices the forward pass can add.

Only safetensors are read: the pickled `.bin` and `.pt` that vLLM falls back to can run code, and are refused here.
As in vLLM, whose slots are preallocated and filled from the corner: a matrix smaller than its place is padded with
zeros, a larger one is refused, and a layer the model does not have is ignored without a word.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from app.engine.errors import AdapterMissing, AdapterRefused
from app.engine.peft import LoraConfig, read_lora_config
from app.engine.weights import Array, ModelConfig, read_tensors

_PREFIX = "base_model.model."
_LINEAR = re.compile(r"^(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")
_EMBEDDING = re.compile(r"^(?P<module>.+)\.lora_embedding_(?P<side>[AB])$")
_LAYER = re.compile(r"^model\.layers\.(?P<index>\d+)\.(?:self_attn|mlp)\.(?P<name>\w+)$")


@dataclass(frozen=True, slots=True)
class LowRank:
    """One module's update: `a` is (r, in), `b` is (out, r) with the scaling already in it."""

    a: Array
    b: Array


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """A loaded adapter: updates by layer and module name, and those of the embedding and the output head."""

    name: str
    layers: Mapping[int, Mapping[str, LowRank]]
    embed: LowRank | None = None
    head: LowRank | None = None


@dataclass(frozen=True, slots=True)
class LoraRequest:
    """A registered adapter. The id is new at every registration, so a name loaded again is another adapter."""

    id: int
    name: str
    path: str


def load_adapter(request: LoraRequest, model: ModelConfig, *, max_rank: int) -> Adapter:
    """Read and check one adapter; AdapterMissing or AdapterRefused, with vLLM's texts."""
    folder = Path(request.path).expanduser()
    try:
        config = read_lora_config(folder, max_rank=max_rank)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise AdapterMissing(request.name, request.path) from exc
    pairs = _pairs(_read(folder), _shapes(model), folder)
    shapes, layers = _shapes(model), dict[int, dict[str, LowRank]]()
    ends: dict[str, LowRank] = {}
    for module, sides in pairs.items():
        name = module.rsplit(".", 1)[-1]
        update = _low_rank(module, sides, shapes[name], config, max_rank)
        inner = _LAYER.match(module)
        if inner is not None:
            layers.setdefault(int(inner["index"]), {})[name] = update
        else:
            ends[name] = update
    return Adapter(request.name, layers, embed=ends.get("embed_tokens"), head=ends.get("lm_head"))


def _shapes(model: ModelConfig) -> dict[str, tuple[int, int]]:
    """(in, out) of every module that may carry an adapter."""
    return {
        "q_proj": (model.hidden, model.q_size),
        "k_proj": (model.hidden, model.kv_size),
        "v_proj": (model.hidden, model.kv_size),
        "o_proj": (model.q_size, model.hidden),
        "gate_proj": (model.hidden, model.intermediate),
        "up_proj": (model.hidden, model.intermediate),
        "down_proj": (model.intermediate, model.hidden),
        "embed_tokens": (model.vocab, model.hidden),
        "lm_head": (model.hidden, model.vocab),
    }


def _read(folder: Path) -> dict[str, Array]:
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise AdapterRefused(f"{folder} doesn't contain tensors")
    try:
        return read_tensors(path)
    except (SafetensorError, ValueError) as exc:
        raise AdapterRefused(str(exc)) from exc


def _pairs(tensors: Mapping[str, Array], known: Iterable[str], folder: Path) -> dict[str, dict[str, Array]]:
    """Group the tensors by module; every name must be a LoRA matrix of a known module."""
    pairs: dict[str, dict[str, Array]] = {}
    for full, tensor in tensors.items():
        if full.endswith((".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")):
            continue
        found = _LINEAR.match(full) or _EMBEDDING.match(full)
        if found is None:
            raise AdapterRefused(f"{full} is unsupported LoRA weight")
        pairs.setdefault(found["module"].removeprefix(_PREFIX), {})[found["side"]] = tensor
    names = sorted(known)
    unexpected = [module for module in pairs if module.rsplit(".", 1)[-1] not in names]
    if unexpected:
        listed = ", ".join(repr(name) for name in names)
        raise AdapterRefused(
            f"While loading {folder}, expected target modules in {{{listed}}} but received {unexpected}."
            " Please verify that the loaded LoRA module is correct"
        )
    return pairs


def _low_rank(
    module: str,
    sides: Mapping[str, Array],
    shape: tuple[int, int],
    config: LoraConfig,
    max_rank: int,
) -> LowRank:
    if sides.keys() != {"A", "B"}:
        raise AdapterRefused(f"{module} has only one of its two LoRA matrices")
    a, b = sides["A"], sides["B"]
    if a.shape[0] != b.shape[1] or a.shape[0] > max_rank or a.shape[1] > shape[0] or b.shape[0] > shape[1]:
        raise AdapterRefused(f"{module}: matrices {a.shape} and {b.shape} do not fit rank {max_rank} and width {shape}")
    scaled = b * np.float32(config.scaling(module))
    return LowRank(_padded(a, (a.shape[0], shape[0])), _padded(scaled, (shape[1], a.shape[0])))


def _padded(matrix: Array, shape: tuple[int, int]) -> Array:
    if matrix.shape == shape:
        return np.ascontiguousarray(matrix, np.float32)
    full = np.zeros(shape, np.float32)
    full[: matrix.shape[0], : matrix.shape[1]] = matrix
    return full
