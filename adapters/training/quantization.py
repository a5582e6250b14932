"""Loading the frozen base in 4 or 8 bits (QLoRA), where there is a CUDA device to do it.

4 bits: NF4 with double quantization, the setting of the QLoRA paper (arXiv 2305.14314, section 3). 8 bits: LLM.int8
(arXiv 2208.07339). The adapter itself is always trained in full precision. An adapter of a quantized training is served
on the 16-bit base, and never merged into the quantized one: that changes its answers.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from adapters.training.errors import InvalidRecipe


def check_quantization(kind: str, *, cuda: bool) -> None:
    """Refuse what this machine cannot do."""
    if kind == "none":
        return
    if not cuda:
        raise InvalidRecipe(
            f"quantization: {kind} needs a CUDA device and this machine has none; use `none`, or a machine with a GPU",
            param="quantization",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InvalidRecipe(
            f"quantization: {kind} needs the package bitsandbytes: pip install 'bitsandbytes>=0.48'",
            param="quantization",
        )


def check_optimizer(name: str, *, cuda: bool) -> None:
    """Optimizers with 8-bit states come from bitsandbytes too."""
    if "8bit" in name and not (cuda and importlib.util.find_spec("bitsandbytes")):
        raise InvalidRecipe(
            f"optimization.optimizer: {name} needs a CUDA device and bitsandbytes; use adamw_torch",
            param="optimization.optimizer",
        )


def quantization_config(kind: str) -> Any:
    """The configuration for transformers, or None."""
    if kind == "none":
        return None
    import torch
    from transformers import BitsAndBytesConfig

    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_quant_storage=torch.bfloat16,  # the storage FSDP can shard: same type as the computation
    )
