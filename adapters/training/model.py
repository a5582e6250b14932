"""Loading the frozen base and describing the adapter to PEFT."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from adapters.training.quantization import quantization_config
from adapters.training.recipe import Recipe
from adapters.training.servable import WEIGHTS_FILE


def quiet() -> None:
    """No bars of the libraries' own: progress is told by the progress file."""
    from datasets import disable_progress_bars
    from transformers.utils import logging

    disable_progress_bars()
    logging.disable_progress_bar()


def use_threads(count: int | None) -> None:
    """How many threads compute on a CPU; None leaves torch's own choice."""
    import torch

    if count is not None:
        torch.set_num_threads(count)


def load_tokenizer(path: Path) -> Any:
    """The base's own tokenizer, from disk only."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, local_files_only=True)


def load_base(path: Path, recipe: Recipe, *, cuda: bool) -> Any:
    """The base model in the recipe's precision, from safetensors on disk only; no code of the model is run."""
    import torch
    from transformers import AutoModelForCausalLM

    flash = cuda and importlib.util.find_spec("flash_attn") is not None
    return AutoModelForCausalLM.from_pretrained(
        path,
        dtype=getattr(torch, recipe.optimization.precision),
        quantization_config=quantization_config(recipe.quantization),
        attn_implementation="flash_attention_2" if flash else "sdpa",
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    )


def adapter_config(recipe: Recipe, targets: tuple[str, ...]) -> Any:
    """PEFT's description of the update."""
    from peft import LoraConfig, TaskType

    wanted = recipe.adapter
    return LoraConfig(
        r=wanted.rank,
        lora_alpha=int(wanted.alpha) if wanted.alpha == int(wanted.alpha) else wanted.alpha,
        lora_dropout=wanted.dropout,
        target_modules=list(targets),
        bias="none",
        use_rslora=wanted.kind == "rslora",
        use_dora=wanted.kind == "dora",
        task_type=TaskType.CAUSAL_LM,
    )


def to_bfloat16(folder: Path) -> None:
    """Round a saved adapter to the type it is served in: half the bytes, and the very numbers that were judged."""
    import torch
    from safetensors.torch import load_file, save_file

    file = folder / WEIGHTS_FILE
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in load_file(file).items()}, file, {"format": "pt"})
