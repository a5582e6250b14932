"""The forward pass against a plain restatement of the formulas, and against itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.llama import Chunk, KVCache, Llama
from app.engine.lora import Adapter, LoraRequest, LowRank, load_adapter
from app.engine.weights import Array, ModelConfig
from tests.engine.conftest import Assets
from tests.engine.tiny import base_tensors, block, shapes, write_adapter

configs = st.builds(
    lambda heads, share, width, layers, tied: ModelConfig(
        hidden=heads * share * width,
        intermediate=20,
        layers=layers,
        heads=heads * share,
        kv_heads=heads,
        head_dim=width,
        vocab=50,
        norm_eps=1e-5,
        rope_theta=10000.0,
        max_positions=64,
        tied=tied,
    ),
    heads=st.integers(1, 3),
    share=st.integers(1, 3),
    width=st.sampled_from([2, 4, 8]),
    layers=st.integers(1, 3),
    tied=st.booleans(),
)
prompts = st.lists(st.integers(0, 49), min_size=1, max_size=24)


Wide = npt.NDArray[np.float64]


def plain_logits(config: ModelConfig, tensors: dict[str, Array], tokens: list[int]) -> Wide:
    """Logits after the last token, in float64, position by position and head by head."""
    weights = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    x = weights["model.embed_tokens.weight"][tokens]

    def norm(x: Wide, name: str) -> Wide:
        scaled: Wide = x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps) * weights[name]
        return scaled

    def turned(vector: Wide, position: int) -> Wide:
        half = config.head_dim // 2
        angle = position * config.rope_theta ** (-2.0 * np.arange(half) / config.head_dim)
        low, high = vector[:half], vector[half:]
        return np.concatenate([low * np.cos(angle) - high * np.sin(angle), high * np.cos(angle) + low * np.sin(angle)])

    for layer in range(config.layers):
        prefix = f"model.layers.{layer}."
        inner = norm(x, f"{prefix}input_layernorm.weight")
        q, k, v = (inner @ weights[f"{prefix}self_attn.{name}_proj.weight"].T for name in "qkv")
        mixed = np.zeros((len(tokens), config.q_size))
        for head in range(config.heads):
            own = slice(head * config.head_dim, (head + 1) * config.head_dim)
            group = head // (config.heads // config.kv_heads)
            shared = slice(group * config.head_dim, (group + 1) * config.head_dim)
            for i in range(len(tokens)):
                query = turned(q[i, own], i)
                scores = np.array([query @ turned(k[j, shared], j) for j in range(i + 1)]) / np.sqrt(config.head_dim)
                share = np.exp(scores - scores.max())
                mixed[i, own] = (share / share.sum()) @ v[: i + 1, shared]
        x = x + mixed @ weights[f"{prefix}self_attn.o_proj.weight"].T
        inner = norm(x, f"{prefix}post_attention_layernorm.weight")
        gate = inner @ weights[f"{prefix}mlp.gate_proj.weight"].T
        up = inner @ weights[f"{prefix}mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ weights[f"{prefix}mlp.down_proj.weight"].T
    head_name = "model.embed_tokens.weight" if config.tied else "lm_head.weight"
    logits: Wide = norm(x[-1], "model.norm.weight") @ weights[head_name].T
    return logits


def fresh(model: Llama, tokens: list[int], adapter: Adapter | None = None) -> Array:
    """Logits after a prompt run in one go."""
    logits: Array = model.step([Chunk(tokens, KVCache(model.config), adapter)])[0]
    return logits


def tiny_adapter(config: ModelConfig, folder: Path, seed: int) -> Adapter:
    """A random adapter over all modules."""
    path = write_adapter(folder / f"seed{seed}", config, seed=seed)
    return load_adapter(LoraRequest(seed, f"seed{seed}", str(path)), config, max_rank=8)


@settings(deadline=None, max_examples=25)
@given(config=configs, tokens=prompts, seed=st.integers(0, 99))
def test_forward_pass_matches_the_formulas(config: ModelConfig, tokens: list[int], seed: int) -> None:
    """Grouped queries, rotary angles, norms and gates give what the textbook formulas give, in any shape."""
    tensors = base_tensors(config, seed)
    np.testing.assert_allclose(
        fresh(Llama(config, tensors, max_len=64), tokens), plain_logits(config, tensors, tokens), rtol=2e-3, atol=2e-4
    )


@settings(deadline=None, max_examples=25)
@given(config=configs, tokens=prompts, cut=st.integers(0, 23), seed=st.integers(0, 99))
def test_cache_equals_full_recompute(config: ModelConfig, tokens: list[int], cut: int, seed: int) -> None:
    """A prompt run in parts over the cache, the rest token by token, ends where one run over all of it ends."""
    model = Llama(config, base_tensors(config, seed), max_len=64)
    cache, start = KVCache(config, capacity=1), cut % len(tokens)
    parts = ([tokens[:start]] if start else []) + [[token] for token in tokens[start:]]
    for part in parts:
        logits = model.step([Chunk(part, cache)])[0]
    assert cache.length == len(tokens)
    np.testing.assert_allclose(logits, fresh(model, tokens), rtol=1e-3, atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(config=configs, texts=st.lists(prompts, min_size=2, max_size=5), seed=st.integers(0, 99))
def test_a_mixed_batch_gives_each_sequence_its_own_answer(
    config: ModelConfig, texts: list[list[int]], seed: int
) -> None:
    """Sequences of any length, with and without adapters, step together as if each were alone."""
    model = Llama(config, base_tensors(config, seed), max_len=64)
    with TemporaryDirectory() as folder:
        adapters = [None, *(tiny_adapter(config, Path(folder), number) for number in (1, 2))]
    chosen = [adapters[(seed + index // 2) % 3] for index in range(len(texts))]
    together = model.step([Chunk(t, KVCache(config), a) for t, a in zip(texts, chosen, strict=True)])
    for row, (tokens, adapter) in enumerate(zip(texts, chosen, strict=True)):
        np.testing.assert_allclose(together[row], fresh(model, tokens, adapter), rtol=1e-3, atol=1e-4)


def test_an_adapter_acts_like_its_merged_weights(assets: Assets) -> None:
    """`x @ a.T @ b.T` on every module equals the same update added to the weights."""
    config, tokens = assets.config, [5, 99, 7, 42]
    adapter = load_adapter(LoraRequest(1, "a0", assets.path("a0")), config, max_rank=8)
    tensors = base_tensors(config, 0)
    merged = dict(tensors)
    for layer, updates in adapter.layers.items():
        for name, update in updates.items():
            merged[f"model.layers.{layer}.{block(name)}.{name}.weight"] = (
                tensors[f"model.layers.{layer}.{block(name)}.{name}.weight"] + update.b @ update.a
            )
    assert {name for updates in adapter.layers.values() for name in updates} == set(shapes(config))
    model = Llama(config, tensors, max_len=64)
    adapted = fresh(model, tokens, adapter)
    np.testing.assert_allclose(adapted, fresh(Llama(config, merged, max_len=64), tokens), rtol=1e-3, atol=1e-3)
    assert np.abs(adapted - fresh(model, tokens)).max() > 0.1


def test_embedding_and_head_adapters_act_like_merged_weights(assets: Assets) -> None:
    """Updates of the embedding and of the output head reach the logits, each in its own place."""
    config, tokens = assets.config, [5, 99, 7]
    random = np.random.default_rng(0)

    def pair(inputs: int, outputs: int) -> LowRank:
        a, b = random.standard_normal((2, inputs)), random.standard_normal((outputs, 2))
        return LowRank(a.astype(np.float32), (b * 0.1).astype(np.float32))

    embed, head = pair(config.vocab, config.hidden), pair(config.hidden, config.vocab)
    tensors = base_tensors(config, 0)
    adapted = fresh(Llama(config, tensors, max_len=64), tokens, Adapter("both", {}, embed=embed, head=head))
    untied = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + head.b @ head.a}
    untied["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"] + (embed.b @ embed.a).T
    merged = Llama(replace(config, tied=False), untied, max_len=64)
    np.testing.assert_allclose(adapted, fresh(merged, tokens), rtol=1e-3, atol=1e-3)
