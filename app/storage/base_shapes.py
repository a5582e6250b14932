"""Whether an adapter's tensors fit its base model, judged by the base's configuration, before any server sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from app.storage.adapter_files import Unservable
from app.storage.safetensors_header import Tensor


class _Config(msgspec.Struct):
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_hidden_layers: int
    vocab_size: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None


@dataclass(frozen=True, slots=True)
class BaseShapes:
    """Inputs and outputs of the linear layers of a Llama-like model, by the layers' names."""

    layers: int
    shapes: Mapping[str, tuple[int, int]]

    @classmethod
    def read(cls, path: Path) -> BaseShapes:
        """From a model's config.json; raises ValueError when it is not one of a Llama-like model."""
        try:
            config = msgspec.json.decode(path.read_bytes(), type=_Config)
        except (OSError, msgspec.DecodeError) as exc:
            raise ValueError(f"{path}: not the config.json of a Llama-like model: {exc}") from exc
        head = config.head_dim or config.hidden_size // config.num_attention_heads
        queries = head * config.num_attention_heads
        keys = head * (config.num_key_value_heads or config.num_attention_heads)
        hidden, inner = config.hidden_size, config.intermediate_size
        shapes = {
            "q_proj": (hidden, queries),
            "k_proj": (hidden, keys),
            "v_proj": (hidden, keys),
            "o_proj": (queries, hidden),
            "gate_proj": (hidden, inner),
            "up_proj": (hidden, inner),
            "down_proj": (inner, hidden),
            "lm_head": (hidden, config.vocab_size),
        }
        return cls(config.num_hidden_layers, shapes)

    def check(self, tensors: Sequence[Tensor]) -> None:
        """Raise Unservable for a layer that the base does not have, or that has another size there."""
        for tensor in tensors:
            parts = tensor.name.split(".")
            half = next((part for part in parts if part in ("lora_A", "lora_B")), None)
            module = parts[parts.index(half) - 1] if half else ""
            shape = self.shapes.get(module)
            if shape is None:
                continue  # embeddings and modules of other architectures are judged by the server
            layer = next((int(part) for part in parts if part.isdigit()), 0)
            if layer >= self.layers:
                raise Unservable(f"layer {layer}: the base model has {self.layers}")
            wanted = shape[0] if half == "lora_A" else shape[1]
            found = tensor.shape[1] if half == "lora_A" else tensor.shape[0]
            if found != wanted:
                raise Unservable(f"{module} in layer {layer}: {half} has size {found}, the base model has {wanted}")
