"""The forward pass against transformers and peft, by the golden answers that ship with the model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine.llama import Chunk, KVCache, Llama
from app.engine.lora import LoraRequest, load_adapter
from app.engine.options import packaged_model
from app.engine.tokenizer import Tokenizer
from app.engine.weights import read_config, read_model_tensors

CLEAR = 0.5  # logits between the first and the second choice; implementations differ by less than a thousandth


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    """What was written when the model was made."""
    parsed: dict[str, Any] = json.loads((packaged_model().parent / "manifest.json").read_text(encoding="utf-8"))
    return parsed


def test_every_shipped_file_is_the_one_that_was_made(manifest: dict[str, Any]) -> None:
    """The hashes in the manifest are those of the files."""
    root: Path = packaged_model().parent
    found = {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in manifest["files"]}
    assert found == manifest["files"]


@pytest.mark.parametrize("name", ["base", "acme", "bloom", "corvid"])
def test_greedy_tokens_are_those_of_transformers_and_peft(manifest: dict[str, Any], name: str) -> None:
    """Prompt and answer ids are the golden ones, for the base model and for every adapter, clear of near ties."""
    root = packaged_model().parent
    config, tokenizer = read_config(root / "base"), Tokenizer(root / "base")
    model = Llama(config, read_model_tensors(root / "base"), max_len=config.max_positions)
    path = str(root / "adapters" / name)
    adapter = None if name == "base" else load_adapter(LoraRequest(1, name, path), config, max_rank=16)
    for case in (case for case in manifest["golden"] if case["model"] == name):
        prompt = tokenizer.encode(tokenizer.render(case["messages"]), add_special_tokens=False)
        assert prompt == case["prompt_token_ids"]
        cache, tokens, made = KVCache(config), prompt, list[int]()
        while len(made) < len(case["token_ids"]):
            logits = model.step([Chunk(tokens, cache, adapter)])[0]
            second, first = np.partition(logits, -2)[-2:]
            assert first - second > CLEAR
            made.append(int(np.argmax(logits)))
            tokens = made[-1:]
        assert made == case["token_ids"]
        assert tokenizer.decode(made, skip_special_tokens=True) == case["text"]


def test_the_answers_are_whole_sentences_in_each_voice(manifest: dict[str, Any]) -> None:
    """Every golden answer ends by itself and speaks as its tenant, or as nobody in particular."""
    openings = {
        "acme": "Acme support.",
        "bloom": "Hello from Bloom!",
        "corvid": "Thank you for contacting Corvid Bank.",
    }
    for case in manifest["golden"]:
        assert case["text"][-1] in ".!?"
        spoken = [voice for voice, opening in openings.items() if case["text"].startswith(opening)]
        assert spoken == ([] if case["model"] == "base" else [case["model"]])
