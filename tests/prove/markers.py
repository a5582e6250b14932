"""Marker adapters: random LoRA weights whose greedy answers are all different, and what each of them answers.

The answer tells which weights made it, so a wrong adapter, a wrong version or the base model cannot go unnoticed. What
is right is asked of a server directly, adapter by adapter, before the gateway is in the way.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from safetensors.numpy import save_file

QUESTION = [{"role": "user", "content": "hello"}]
ANSWER_TOKENS = 8
RANK = 4
STRENGTH = 0.25


@dataclass(frozen=True, slots=True)
class Shape:
    """What an adapter must know of its base model."""

    name: str
    hidden: int
    q_size: int
    kv_size: int
    layers: int

    @classmethod
    def of(cls, base: Path) -> Shape:
        """Read from a Llama's configuration."""
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        head = config["head_dim"]
        return cls(
            base.name,
            config["hidden_size"],
            head * config["num_attention_heads"],
            head * config["num_key_value_heads"],
            config["num_hidden_layers"],
        )


def write_marker(folder: Path, shape: Shape, seed: int) -> Path:
    """A PEFT adapter folder with random weights, strong enough to change the greedy tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    dice = np.random.default_rng(seed)
    tensors = {}
    for layer in range(shape.layers):
        for module, outputs in (("q_proj", shape.q_size), ("v_proj", shape.kv_size)):
            place = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            a = dice.standard_normal((RANK, shape.hidden)) * STRENGTH
            b = dice.standard_normal((outputs, RANK)) * STRENGTH
            tensors[f"{place}.lora_A.weight"] = a.astype(np.float32)
            tensors[f"{place}.lora_B.weight"] = b.astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": shape.name,
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def body(model: str, **more: Any) -> dict[str, Any]:
    """The question, greedily."""
    return {"model": model, "messages": QUESTION, "max_tokens": ANSWER_TOKENS, "temperature": 0, **more}


@dataclass(frozen=True, slots=True)
class Marker:
    """An adapter's folder and its own answer."""

    folder: Path
    says: str


async def markers(url: str, base: Path, folder: Path, count: int) -> list[Marker]:
    """So many adapters that answer differently from one another and from the base, as this server says itself."""
    shape = Shape.of(base)
    found: dict[str, Marker] = {}
    async with aiohttp.ClientSession(url) as session:
        taken = {await _said(session, "base")}
        for seed in range(2 * count + 10):
            if len(found) == count:
                break
            marker = Marker(place := write_marker(folder / f"m{seed:04d}", shape, seed), await _asked(session, place))
            if marker.says and marker.says not in taken:
                found[marker.says] = marker
                taken.add(marker.says)
    assert len(found) == count, f"only {len(found)} of {count} markers answer differently"
    return list(found.values())


async def _asked(session: aiohttp.ClientSession, folder: Path) -> str:
    name = f"reference-{folder.name}"
    await _post(session, "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
    said = await _said(session, name)
    await _post(session, "/v1/unload_lora_adapter", {"lora_name": name})
    return said


async def _said(session: aiohttp.ClientSession, model: str) -> str:
    said: str = json.loads(await _post(session, "/v1/chat/completions", body(model)))["choices"][0]["message"][
        "content"
    ]
    return said


async def _post(session: aiohttp.ClientSession, path: str, sent: dict[str, Any]) -> str:
    async with session.post(path, json=sent) as answer:
        text = await answer.text()
        if answer.status != 200:
            raise AssertionError(f"{path}: {answer.status} {text}")
        return text
