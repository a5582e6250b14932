"""Loading the frozen base in 4 or 8 bits (QLoRA): for the memory of a GPU; on a CPU it works too, and saves no time.

4 bits: NF4 with double quantization, the setting of the QLoRA paper (arXiv 2305.14314, section 3). 8 bits: LLM.int8
(arXiv 2208.07339). The adapter itself is always trained in full precision. An adapter of a quantized training is served
on the 16-bit base, and never merged into the quantized one: that changes its answers.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from adapters.training.errors import InvalidRecipe


def check_quantization(kind: str, *, installed: bool) -> None:
    """Refuse what cannot be done without the library `bitsandbytes`."""
    if kind != "none" and not installed:
        raise InvalidRecipe(
            f"quantization: {kind} needs the package bitsandbytes: pip install 'bitsandbytes>=0.50'",
            param="quantization",
        )


def check_optimizer(name: str, *, installed: bool, cuda: bool) -> None:
    """Optimizers with 8-bit states come from bitsandbytes too; paged ones move between a GPU and the host."""
    if name.startswith("paged") and not cuda:
        raise InvalidRecipe(
            f"optimization.optimizer: {name} needs a CUDA device and this machine has none; use adamw_8bit or"
            " adamw_torch",
            param="optimization.optimizer",
        )
    if "8bit" in name and not installed:
        raise InvalidRecipe(
            f"optimization.optimizer: {name} needs the package bitsandbytes; install it, or use adamw_torch",
            param="optimization.optimizer",
        )


def has_bitsandbytes() -> bool:
    """Whether the library is there, without loading it."""
    return importlib.util.find_spec("bitsandbytes") is not None


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
