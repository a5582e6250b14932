"""Comparing what two models answer: next-token scores on a few fixed conversations, in float32.

Files can be right and answers wrong (a merge into rounded weights, a scaling lost on the way), so composition and
merging are judged by answers, on what was written to disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

PROBES = ("Hello", "How do I change my password?", "Where is my order 4711?", "Thank you very much.")


def load_float32(base: Path, adapter: Path | None = None) -> Any:
    """The base, with or without an adapter, ready to answer."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True, use_safetensors=True)
    return (PeftModel.from_pretrained(model, str(adapter)) if adapter else model).eval()


def scores(model: Any, tokenizer: Any) -> list[Any]:
    """Next-token scores at every position of every probe."""
    import torch

    made = []
    for text in PROBES:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            made.append(model(input_ids=ids).logits[0].float())
    return made


def difference(one: list[Any], other: list[Any]) -> float:
    """The largest difference of two models' scores, as a share of the largest score: 0 is the same model."""
    scale = max(float(rows.abs().max()) for rows in one)
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True)) / scale
