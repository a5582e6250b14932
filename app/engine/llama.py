"""Llama's forward pass in float32 numpy, over a ragged batch: prompts and single tokens of several sequences together.

Shapes: T tokens of all chunks in a row, H hidden, D head width, L positions in a cache. Weights keep PyTorch's
(out, in) layout. A LoRA adapter adds `x @ a.T @ b.T` to its own rows only, so one step may mix adapters.
Formulas: RMSNorm, rotary embedding with halves rotated, grouped-query attention, SwiGLU (Hugging Face `LlamaModel`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from app.engine.lora import Adapter, LowRank
from app.engine.weights import Array, ModelConfig

_NO_DELTAS: Mapping[str, LowRank] = {}


class KVCache:
    """Keys and values of one sequence, all layers; capacity doubles when it is full."""

    def __init__(self, config: ModelConfig, capacity: int = 64) -> None:
        """Start empty."""
        self.length = 0
        self._data = np.empty((config.layers, 2, config.kv_heads, capacity, config.head_dim), np.float32)

    def reserve(self, count: int) -> None:
        """Make room for `count` more positions."""
        capacity = self._data.shape[3]
        if self.length + count <= capacity:
            return
        layers, pair, heads, _, width = self._data.shape
        grown = np.empty((layers, pair, heads, max(2 * capacity, self.length + count), width), np.float32)
        grown[:, :, :, : self.length] = self._data[:, :, :, : self.length]
        self._data = grown

    def put(self, layer: int, keys: Array, values: Array) -> tuple[Array, Array]:
        """Write (n, kv_heads, D) after `length`; returns all keys and values so far as (kv_heads, L, D) views."""
        end = self.length + keys.shape[0]
        store = self._data[layer]
        store[0, :, self.length : end] = keys.transpose(1, 0, 2)
        store[1, :, self.length : end] = values.transpose(1, 0, 2)
        return store[0, :, :end], store[1, :, :end]


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next tokens of one sequence: its whole prompt first, one token a step afterwards."""

    tokens: Sequence[int]
    cache: KVCache
    adapter: Adapter | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer; `qkv` and `gate_up` are stacked along their output."""

    attention_norm: Array
    qkv: Array
    out: Array
    mlp_norm: Array
    gate_up: Array
    down: Array


@dataclass(frozen=True, slots=True)
class Batch:
    """A step's rows: which belong to which chunk, and which share an adapter."""

    chunks: Sequence[Chunk]
    rows: Sequence[slice]
    adapted: Sequence[tuple[slice, Adapter]]
    cos: Array
    sin: Array


class Llama:
    """The model. Stateless but for its weights; every sequence brings its own cache."""

    def __init__(self, config: ModelConfig, tensors: Mapping[str, Array], *, max_len: int) -> None:
        """Stack the weights and tabulate the rotary angles for `max_len` positions."""
        self.config = config
        self._embed = tensors["model.embed_tokens.weight"]
        self._head = self._embed if config.tied else tensors["lm_head.weight"]
        self._norm = tensors["model.norm.weight"]
        self._layers = [_layer(tensors, f"model.layers.{index}.") for index in range(config.layers)]
        half = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
        angles = np.outer(np.arange(max_len, dtype=np.float32), np.float32(config.rope_theta) ** -half)
        self._cos, self._sin = np.cos(angles), np.sin(angles)

    def step(self, chunks: Sequence[Chunk]) -> Array:
        """Run the chunks, extend their caches, and return the logits after each chunk's last token, (chunks, vocab)."""
        batch = self._batch(chunks)
        x = self._embedded(batch)
        for index, layer in enumerate(self._layers):
            x = x + self._attention(index, layer, batch, _rms(x, layer.attention_norm, self.config.norm_eps))
            x = x + self._mlp(index, layer, batch, _rms(x, layer.mlp_norm, self.config.norm_eps))
        for chunk in chunks:
            chunk.cache.length += len(chunk.tokens)
        return self._logits(batch, _rms(x[[rows.stop - 1 for rows in batch.rows]], self._norm, self.config.norm_eps))

    def _batch(self, chunks: Sequence[Chunk]) -> Batch:
        rows, adapted, start = [], list[tuple[slice, Adapter]](), 0
        for chunk in chunks:
            chunk.cache.reserve(len(chunk.tokens))
            span = slice(start, start + len(chunk.tokens))
            rows.append(span)
            start = span.stop
            if chunk.adapter is None:
                continue
            if adapted and adapted[-1][1] is chunk.adapter and adapted[-1][0].stop == span.start:
                span = slice(adapted.pop()[0].start, span.stop)
            adapted.append((span, chunk.adapter))
        positions = np.concatenate([np.arange(c.cache.length, c.cache.length + len(c.tokens)) for c in chunks])
        return Batch(chunks, rows, adapted, self._cos[positions][:, None], self._sin[positions][:, None])

    def _embedded(self, batch: Batch) -> Array:
        ids = np.concatenate([np.asarray(chunk.tokens, np.int64) for chunk in batch.chunks])
        x: Array = self._embed[ids]
        for rows, adapter in batch.adapted:
            if adapter.embed is not None:
                x[rows] += adapter.embed.a.T[ids[rows]] @ adapter.embed.b.T
        return x

    def _attention(self, index: int, layer: Layer, batch: Batch, x: Array) -> Array:
        config = self.config
        q_end, k_end = config.q_size, config.q_size + config.kv_size
        qkv = x @ layer.qkv.T
        parts = {"q_proj": slice(0, q_end), "k_proj": slice(q_end, k_end), "v_proj": slice(k_end, None)}
        _add_deltas(qkv, x, index, batch, parts)
        turned = _rotate(qkv[:, :k_end].reshape(len(x), -1, config.head_dim), batch.cos, batch.sin)
        values = qkv[:, k_end:].reshape(len(x), config.kv_heads, config.head_dim)
        mixed = np.empty((len(x), q_end), np.float32)
        for chunk, rows in zip(batch.chunks, batch.rows, strict=True):
            keys, past = chunk.cache.put(index, turned[rows, config.heads :], values[rows])
            mixed[rows] = _attend(turned[rows, : config.heads], keys, past)
        out = mixed @ layer.out.T
        _add_deltas(out, mixed, index, batch, {"o_proj": slice(None)})
        return out

    def _mlp(self, index: int, layer: Layer, batch: Batch, x: Array) -> Array:
        width = self.config.intermediate
        both = x @ layer.gate_up.T
        _add_deltas(both, x, index, batch, {"gate_proj": slice(0, width), "up_proj": slice(width, None)})
        gate, up = both[:, :width], both[:, width:]
        inner = gate / (1.0 + np.exp(-gate)) * up
        out = inner @ layer.down.T
        _add_deltas(out, inner, index, batch, {"down_proj": slice(None)})
        return cast("Array", out)

    def _logits(self, batch: Batch, x: Array) -> Array:
        logits: Array = x @ self._head.T
        for row, chunk in enumerate(batch.chunks):
            if chunk.adapter is not None and chunk.adapter.head is not None:
                logits[row] += x[row] @ chunk.adapter.head.a.T @ chunk.adapter.head.b.T
        return logits


def _layer(tensors: Mapping[str, Array], prefix: str) -> Layer:
    def read(name: str) -> Array:
        return tensors[f"{prefix}{name}.weight"]

    return Layer(
        attention_norm=read("input_layernorm"),
        qkv=np.concatenate([read(f"self_attn.{name}") for name in ("q_proj", "k_proj", "v_proj")]),
        out=read("self_attn.o_proj"),
        mlp_norm=read("post_attention_layernorm"),
        gate_up=np.concatenate([read("mlp.gate_proj"), read("mlp.up_proj")]),
        down=read("mlp.down_proj"),
    )


def _rms(x: Array, weight: Array, eps: float) -> Array:
    scale = 1.0 / np.sqrt(np.einsum("th,th->t", x, x) / x.shape[1] + np.float32(eps))
    return cast("Array", x * scale[:, None].astype(np.float32) * weight)


def _rotate(x: Array, cos: Array, sin: Array) -> Array:
    half = x.shape[-1] // 2
    low, high = x[..., :half], x[..., half:]
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def _attend(queries: Array, keys: Array, values: Array) -> Array:
    """Causal attention of n queries (n, heads, D) at the end of L positions; returns (n, heads * D)."""
    count, heads, width = queries.shape
    kv_heads, total, _ = keys.shape
    grouped = queries.transpose(1, 0, 2).reshape(kv_heads, -1, width)
    scores = grouped @ keys.transpose(0, 2, 1) * np.float32(width**-0.5)
    if count > 1:
        future = np.triu(np.ones((count, total), bool), k=total - count + 1)
        scores.reshape(kv_heads, -1, count, total)[:, :, future] = -np.inf
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    mixed = (scores @ values).reshape(heads, count, width)
    return cast("Array", mixed.transpose(1, 0, 2).reshape(count, heads * width))


def _add_deltas(out: npt.NDArray[np.float32], x: Array, index: int, batch: Batch, parts: Mapping[str, slice]) -> None:
    for rows, adapter in batch.adapted:
        deltas = adapter.layers.get(index, _NO_DELTAS)
        for module, columns in parts.items():
            delta = deltas.get(module)
            if delta is not None:
                out[rows, columns] += x[rows] @ delta.a.T @ delta.b.T
