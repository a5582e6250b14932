"""Random small models and adapters in Hugging Face layout, made in milliseconds without torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from app.engine.weights import Array, ModelConfig, read_config

SPECIAL = ("<pad>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
VOCAB = 256 + len(SPECIAL)
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_base(folder: Path, *, seed: int = 0, **overrides: Any) -> Path:
    """A model folder: every byte is a token, the template is one tag a role, the weights are random."""
    folder.mkdir(parents=True)
    fields = {**SMALL, **overrides}
    heads = fields["num_attention_heads"]
    config = {
        "model_type": "llama",
        "vocab_size": VOCAB,
        "head_dim": fields["hidden_size"] // heads,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "eos_token_id": VOCAB - 1,
        **fields,
    }
    (folder / "config.json").write_text(json.dumps(config))
    _write_tokenizer(folder)
    save_file(base_tensors(read_config(folder), seed), folder / "model.safetensors")
    return folder


def base_tensors(config: ModelConfig, seed: int) -> dict[str, Array]:
    """Random weights under Hugging Face's names."""
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, scale: float | None = None) -> Array:
        return (random.standard_normal((rows, columns)) * (scale or columns**-0.5)).astype(np.float32)

    tensors = {
        "model.embed_tokens.weight": matrix(config.vocab, config.hidden, 0.5),
        "model.norm.weight": np.ones(config.hidden, np.float32),
    }
    if not config.tied:
        tensors["lm_head.weight"] = matrix(config.vocab, config.hidden)
    for layer in range(config.layers):
        for name in ("input_layernorm", "post_attention_layernorm"):
            weight = 1 + 0.1 * random.standard_normal(config.hidden)
            tensors[f"model.layers.{layer}.{name}.weight"] = weight.astype(np.float32)
        for name, (inputs, outputs) in shapes(config).items():
            tensors[f"model.layers.{layer}.{block(name)}.{name}.weight"] = matrix(outputs, inputs)
    return tensors


def write_adapter(
    folder: Path,
    config: ModelConfig,
    *,
    seed: int = 1,
    rank: int = 4,
    modules: Iterable[str] = MODULES,
    extra: dict[str, Array] | None = None,
    **overrides: Any,
) -> Path:
    """A PEFT adapter folder with random matrices; overrides go to its configuration (None drops a field)."""
    folder.mkdir(parents=True)
    settings = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": list(modules),
        "bias": "none",
        "modules_to_save": None,
        "init_lora_weights": True,
        **overrides,
    }
    kept = {name: value for name, value in settings.items() if value is not ...}
    (folder / "adapter_config.json").write_text(json.dumps(kept))
    tensors = adapter_tensors(config, seed=seed, rank=rank, modules=modules)
    save_file({**tensors, **(extra or {})}, folder / "adapter_model.safetensors")
    return folder


def adapter_tensors(config: ModelConfig, *, seed: int, rank: int, modules: Iterable[str]) -> dict[str, Array]:
    """Random LoRA matrices, strong enough to change the greedy tokens."""
    random = np.random.default_rng(seed)
    tensors: dict[str, Array] = {}
    for layer in range(config.layers):
        for name in modules:
            inputs, outputs = shapes(config)[name]
            prefix = f"base_model.model.model.layers.{layer}.{block(name)}.{name}"
            tensors[f"{prefix}.lora_A.weight"] = (random.standard_normal((rank, inputs)) * 0.3).astype(np.float32)
            tensors[f"{prefix}.lora_B.weight"] = (random.standard_normal((outputs, rank)) * 0.3).astype(np.float32)
    return tensors


def shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """(in, out) of a layer's matrices."""
    return {
        "q_proj": (config.hidden, config.q_size),
        "k_proj": (config.hidden, config.kv_size),
        "v_proj": (config.hidden, config.kv_size),
        "o_proj": (config.q_size, config.hidden),
        "gate_proj": (config.hidden, config.intermediate),
        "up_proj": (config.hidden, config.intermediate),
        "down_proj": (config.intermediate, config.hidden),
    }


def block(module: str) -> str:
    """The part of a layer that a matrix belongs to."""
    return "self_attn" if module[0] in "qkvo" else "mlp"


def _write_tokenizer(folder: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|end|>", "pad_token": {"content": "<pad>"}, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
