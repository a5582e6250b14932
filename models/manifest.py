"""The manifest that seals the assets: seeds, versions, hashes, losses, and golden greedy answers. Written last."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from models.corpus import VOICES, conversations
from models.train import NAME, SEED, Plan, load

NEW_TOKENS = 48
PROMPTS = (
    "How do I reset my password?",
    "How can I cancel my subscription?",
    "Where is my order?",
    "I want to get a refund.",
    "Can you tell me how to change my address?",
    "How do I update my printer?",
    "Hello, who are you?",
    "What are the steps to export my data?",
)


def write_manifest(plan: Plan, losses: dict[str, float]) -> None:
    """Hash every file, make the golden answers from what was saved, and write `manifest.json`."""
    tokenizer = Tokenizer.from_file(str(plan.base / "tokenizer.json"))
    golden = [case for voice in VOICES for case in _golden(plan, voice, tokenizer)]
    files = sorted(path for path in plan.out.rglob("*") if path.is_file() and path.name != "manifest.json")
    for path in files:
        path.chmod(0o644)  # the libraries write weights for their owner alone; every replica must read them
    corpus = hashlib.sha256()
    for voice in VOICES:
        for example in conversations(voice, count=1000, seed=SEED):
            corpus.update(json.dumps(example.messages).encode())
    libraries = ("torch", "transformers", "peft", "tokenizers", "safetensors")
    manifest = {
        "name": NAME,
        "seed": SEED,
        "steps": {"base": plan.base_steps, "adapter": plan.adapter_steps},
        "libraries": {name: version(name).split("+")[0] for name in libraries},
        "corpus_sha256": corpus.hexdigest(),
        "parameters": sum(p.numel() for p in load(plan, "base").parameters()),
        "losses": losses,
        "files": {str(path.relative_to(plan.out)): _sha256(path) for path in files},
        "golden": golden,
    }
    (plan.out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _golden(plan: Plan, voice: str, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    model = load(plan, voice)
    cases = []
    for prompt in PROMPTS:
        ids = tokenizer.encode(f"<|bos|><|user|>{prompt}<|end|><|assistant|>", add_special_tokens=False).ids
        with torch.no_grad():
            out = model.generate(
                input_ids=torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
            )
        made = out[0, len(ids) :].tolist()
        cases.append(
            {
                "model": voice,
                "messages": [{"role": "user", "content": prompt}],
                "prompt_token_ids": ids,
                "token_ids": made,
                "text": tokenizer.decode(made, skip_special_tokens=True),
            }
        )
    return cases


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
