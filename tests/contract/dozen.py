"""Twelve adapters that answer differently, made of the three that ship, with their answers by the forward pass itself.

A copy is its original with the outgoing LoRA matrices disturbed by seeded noise: the same names and shapes, other
words. Its answers need not make sense; they must be its own, and clear enough that two implementations agree on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree

import numpy as np
from safetensors.numpy import save_file

from app.engine.llama import Chunk, KVCache, Llama
from app.engine.lora import Adapter, LoraRequest, load_adapter
from app.engine.options import packaged_model
from app.engine.tokenizer import Tokenizer
from app.engine.weights import Array, read_config, read_model_tensors, read_tensors

ORIGINALS = ("acme", "bloom", "corvid")
COPIES = 3
NOISE = 6.0  # standard deviations of a matrix; the shipped voices are robust against less
CLEAR = 0.02  # logits between the first and the second choice; implementations differ by less than a thousandth
MAX_TOKENS = 20


@dataclass(frozen=True, slots=True)
class Member:
    """One of the twelve: its folder, and its greedy answers by question, clear ones only."""

    name: str
    path: Path
    answers: dict[str, str]


def make_dozen(folder: Path, questions: Sequence[str]) -> list[Member]:
    """Write the adapters and compute their answers."""
    root = packaged_model().parent
    config, tokenizer = read_config(root / "base"), Tokenizer(root / "base")
    model = Llama(config, read_model_tensors(root / "base"), max_len=config.max_positions)
    members = []
    for original in ORIGINALS:
        for number in range(COPIES + 1):
            name = f"{original}-{number}"
            path = _copied(root / "adapters" / original, folder / name, seed=number)
            adapter = load_adapter(LoraRequest(1, name, str(path)), config, max_rank=16)
            found = _greedy(model, tokenizer, adapter, questions)
            clear = {
                question: text for question, (text, margin) in zip(questions, found, strict=True) if margin > CLEAR
            }
            members.append(Member(name, path, clear))
    return members


def _copied(source: Path, folder: Path, *, seed: int) -> Path:
    """A copy of an adapter, disturbed unless the seed is 0."""
    copytree(source, folder)
    if seed:
        weights, random = folder / "adapter_model.safetensors", np.random.default_rng(seed)
        tensors = read_tensors(weights)
        for name, tensor in sorted(tensors.items()):
            if ".lora_B." in name:
                noise = NOISE * tensor.std() * random.standard_normal(tensor.shape)
                tensors[name] = tensor + noise.astype(np.float32)
        save_file(tensors, weights)
    return folder


def _greedy(model: Llama, tokenizer: Tokenizer, adapter: Adapter, questions: Sequence[str]) -> list[tuple[str, float]]:
    """The answers, each with the smallest distance between a token and its runner-up on the way."""
    texts = [tokenizer.render([{"role": "user", "content": question}]) for question in questions]
    tokens = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    caches = [KVCache(model.config) for _ in questions]
    steps = []
    for _ in range(MAX_TOKENS):
        steps.append(model.step([Chunk(t, cache, adapter) for t, cache in zip(tokens, caches, strict=True)]))
        tokens = [[int(token)] for token in steps[-1].argmax(axis=1)]
    return [_read(tokenizer, np.stack([step[row] for step in steps])) for row in range(len(questions))]


def _read(tokenizer: Tokenizer, logits: Array) -> tuple[str, float]:
    """Text and smallest margin of one answer from its (tokens, vocabulary) logits, up to its end token."""
    made = [int(token) for token in logits.argmax(axis=1)]
    count = made.index(tokenizer.eos_id) + 1 if tokenizer.eos_id in made else len(made)
    second, first = np.partition(logits[:count], -2, axis=1)[:, -2:].T
    return tokenizer.decode(made[:count], skip_special_tokens=True), float((first - second).min())
