"""Which adapters can be served: vLLM's rules on configuration and tensors."""

from __future__ import annotations

import json
import time
from importlib.resources import files
from typing import Any

import pytest

from app.storage.adapter_files import LoraConfig, Unservable, check_tensors, read_config
from app.storage.safetensors_header import Tensor
from tests.storage.adapter import CONFIG, MODULE


def config(**fields: Any) -> bytes:
    """A valid configuration with these fields."""
    return json.dumps({**CONFIG, **fields}).encode()


def test_the_shipped_adapters_are_servable() -> None:
    """What current PEFT writes, with all of its keys, is understood."""
    raw = (files("app.engine") / "assets" / "adapters" / "acme" / "adapter_config.json").read_bytes()
    found = read_config(raw)
    assert found.base_model == "tunegate-tiny"
    assert found.ranks == {8}
    assert found.target_modules is not None
    assert "q_proj" in found.target_modules


@pytest.mark.parametrize(
    "fields",
    [
        {"use_rslora": True},
        {"rank_pattern": {"model.layers.0.self_attn.q_proj": 4}, "alpha_pattern": {"q_proj": 1.5}},
        {"init_lora_weights": True},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal"},
        {"target_modules": "all-linear"},
        {"modules_to_save": ["score"]},
        {"bias": None},
        {"base_model_name_or_path": None},
        {"use_dora": False, "lora_bias": None, "auto_mapping": None},
    ],
)
def test_these_are_servable(fields: dict[str, Any]) -> None:
    """What vLLM accepts is accepted."""
    assert read_config(config(**fields)).ranks >= {2}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"peft_type": "IA3"}, "peft_type"),
        ({"peft_type": None}, "peft_type"),
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "bias"),
        ({"bias": "lora_only"}, "bias"),
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, "modules_to_save"),
        ({"modules_to_save": "score"}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"init_lora_weights": "PiSSA_niter_16"}, "init_lora_weights"),
        ({"init_lora_weights": "olora"}, "init_lora_weights"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights"),
        ({"init_lora_weights": "corda"}, "init_lora_weights"),
        ({"alora_invocation_tokens": [1]}, "aLoRA"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"use_bdlora": {"nblocks": 2}}, "block-diagonal"),
        ({"use_qalora": True}, "QALoRA"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters"),
        ({"auto_mapping": {"base_model_class": "X", "parent_library": "evil"}}, "auto_mapping"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
        ({"chat_template": "{{ evil }}"}, "chat_template"),
        ({"r": 0}, "r: "),
        ({"r": -8}, "r: "),
        ({"r": 513}, "r: "),
        ({"r": True}, "r: "),
        ({"r": "8"}, "r: "),
        ({"r": 8.0}, "r: "),
        ({"r": None}, "r: "),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern"),
        ({"rank_pattern": {"(a+)+$": 4}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern"),
        ({"lora_alpha": 0}, "lora_alpha"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"lora_alpha": False}, "lora_alpha"),
        ({"target_modules": []}, "target_modules"),
        ({"target_modules": None}, "target_modules"),
        ({"target_modules": [1]}, "target_modules"),
        ({"target_modules": ""}, "target_modules"),
        ({"base_model_name_or_path": "x" * 401}, "base_model_name_or_path"),
        ({"base_model_name_or_path": "a\x00b"}, "base_model_name_or_path"),
        ({"base_model_name_or_path": 7}, "base_model_name_or_path"),
    ],
)
def test_these_are_refused_with_the_reason(fields: dict[str, Any], says: str) -> None:
    """What vLLM would refuse, or serve wrongly, is refused here, and the field is named."""
    with pytest.raises(Unservable, match=says):
        read_config(config(**fields))


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"{", b"\xff", b'{"a":' * 100_000, b"[" * 100_000, b"{}"])
def test_what_is_no_configuration_is_refused(raw: bytes) -> None:
    """Any bytes are a reason, never a crash."""
    with pytest.raises(Unservable):
        read_config(raw)


def test_patterns_are_never_run() -> None:
    """A pattern that takes a regular-expression engine for ever takes no time."""
    begin = time.process_time()
    with pytest.raises(Unservable):
        check_tensors(pair(), read_config(config(target_modules="(" + "a+" * 20 + ")+$", r=3)))
    assert time.process_time() - begin < 5


def pair(module: str = MODULE, rank: int = 2, dtype: str = "F32") -> list[Tensor]:
    """A and B of a module."""
    a, b = Tensor(f"{module}.lora_A.weight", dtype, (rank, 4)), Tensor(f"{module}.lora_B.weight", dtype, (4, rank))
    return [a, b]


PLAIN = LoraConfig("base", frozenset({2}), ("q_proj",))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_pairs_of_the_configured_rank_are_servable(dtype: str) -> None:
    """Also with several ranks, with full names of targets, and for embeddings."""
    check_tensors(pair(dtype=dtype), PLAIN)
    check_tensors(pair() + pair(MODULE.replace(".0.", ".1."), rank=4), LoraConfig("base", frozenset({2, 4}), None))
    check_tensors(pair(), LoraConfig("base", frozenset({2}), ("layers.0.self_attn.q_proj",)))
    names = (
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.model.embed_tokens.lora_embedding_B",
    )
    shapes = ((2, 9), (4, 2))
    tensors = [Tensor(name, "F32", shape) for name, shape in zip(names, shapes, strict=True)]
    check_tensors(tensors, LoraConfig("base", frozenset({2}), ("embed_tokens",)))


@pytest.mark.parametrize(
    "tensors",
    [
        pair()[:1],
        pair()[1:],
        pair(rank=3),
        pair(dtype="I8"),
        pair(dtype="F64"),
        pair("base_model.model.model.layers.0.self_attn.k_proj"),
        pair("base_model.model.xq_proj"),
        pair("model.layers.0.self_attn.q_proj"),
        pair("base_model.model.a/../q_proj"),
        [Tensor(f"{MODULE}.lora_A.weight", "F32", (2, 4, 1)), pair()[1]],
        [Tensor(f"{MODULE}.lora_A.weight", "F32", (2, 0)), pair()[1]],
        [pair()[0], Tensor(f"{MODULE}.lora_B.weight", "F32", (4, 3))],
        [*pair(), Tensor(f"{MODULE}.lora_magnitude_vector", "F32", (4,))],
        [*pair(), Tensor(f"{MODULE}.lora_B.bias", "F32", (4,))],
        [*pair(), Tensor("base_model.model.lm_head.weight", "F32", (4, 4))],
        [*pair(), Tensor("token_adapter.trainable_tokens_delta", "F32", (4, 4))],
    ],
)
def test_other_tensors_are_refused(tensors: list[Tensor]) -> None:
    """Half pairs, other ranks, other dtypes, modules that were not trained, and anything that is not LoRA."""
    with pytest.raises(Unservable):
        check_tensors(tensors, PLAIN)
