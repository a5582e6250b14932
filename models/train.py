"""Training the tiny Llama from nothing and one LoRA adapter per tenant on top of it.

The base first hears all four voices alike, so that it knows everybody's words, and then mostly the neutral one; an
adapter only has to bring one voice back. The others are rehearsed to the end: otherwise the tied embeddings of their
words drift so far off that no low-rank update brings them back. The loss counts the assistant's words only. Batches are
padded to their longest conversation; the learning rate follows one cycle. Steps are optimizer steps of 32
conversations, losses are nats per token.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from models.corpus import VOICES, Example, conversations

SEED = 20_261_124
BATCH = 32
BASE_RATE = 2e-3
ADAPTER_RATE = 2e-3
MIXED_SHARE = 0.6  # of the base's steps: all voices alike
REHEARSED_SHARE = 0.08  # of the conversations after that: any voice
CONTEXT = 1024
SPECIAL = ("<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "<|bos|>{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NAME = "tunegate-tiny"


@dataclass(frozen=True, slots=True)
class Plan:
    """Where to write and how long to train."""

    out: Path
    base_steps: int
    adapter_steps: int
    threads: int

    @property
    def base(self) -> Path:
        """Folder of the base model."""
        return self.out / "base"

    def adapter(self, tenant: str) -> Path:
        """Folder of one tenant's adapter."""
        return self.out / "adapters" / tenant


def make_tokenizer(plan: Plan) -> None:
    """A byte-level BPE of 1,024 entries over the corpus, with the chat template beside it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    texts = [text for voice in VOICES for e in conversations(voice, count=3000, seed=SEED) for _, text in e.messages]
    tokenizer.train_from_iterator(texts, trainer)
    plan.base.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(plan.base / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }
    (plan.base / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def make_base(plan: Plan) -> float:
    """Train the base model in the neutral voice; returns its last loss."""
    torch.manual_seed(SEED)
    torch.set_num_threads(plan.threads)
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    loss = _train(model, plan, "base", steps=plan.base_steps, rate=BASE_RATE)
    model.to(torch.bfloat16).save_pretrained(plan.base)
    return loss


def make_adapter(plan: Plan, tenant: str) -> float:
    """Train one tenant's LoRA on the finished base; returns its last loss."""
    torch.manual_seed(SEED + VOICES.index(tenant))
    model = LlamaForCausalLM.from_pretrained(plan.base, dtype=torch.float32)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=targets, bias="none", task_type="CAUSAL_LM")
    tuned = get_peft_model(model, lora)
    loss = _train(tuned, plan, tenant, steps=plan.adapter_steps, rate=ADAPTER_RATE)
    folder = plan.adapter(tenant)
    tuned.save_pretrained(folder)
    _tidy(folder)
    return loss


def load(plan: Plan, voice: str) -> Any:
    """The saved model of one voice, in float32, ready to generate."""
    model = LlamaForCausalLM.from_pretrained(plan.base, dtype=torch.float32)
    return model.eval() if voice == "base" else PeftModel.from_pretrained(model, plan.adapter(voice)).eval()


def encode(tokenizer: Tokenizer, example: Example) -> tuple[list[int], list[int]]:
    """Token ids of a conversation, and labels that are -100 outside the assistant's turns."""
    ids, labels = [1], [-100]
    for role, text in example.messages:
        head = [tokenizer.token_to_id(f"<|{role}|>")]
        words = [*tokenizer.encode(text, add_special_tokens=False).ids, 2]
        ids += head + words
        labels += [-100] + (words if role == "assistant" else [-100] * len(words))
    return ids, labels


def _train(model: Any, plan: Plan, voice: str, *, steps: int, rate: float) -> float:
    tokenizer = Tokenizer.from_file(str(plan.base / "tokenizer.json"))
    stream = [encode(tokenizer, example) for example in _heard(voice, steps * BATCH)]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps, pct_start=0.1)
    model.train()
    mean = 0.0
    for step in range(steps):
        ids, labels, mask = _batch(stream[step * BATCH : (step + 1) * BATCH])
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        mean = loss.item() if step == 0 else 0.95 * mean + 0.05 * loss.item()
        if step % 50 == 0 or step == steps - 1:
            print(f"{voice}: step {step + 1}/{steps} loss {mean:.4f}", file=sys.stderr, flush=True)
    if not math.isfinite(mean):
        raise FloatingPointError(f"the training of {voice} has diverged")
    return round(mean, 4)


def _heard(voice: str, count: int) -> Iterator[Example]:
    """The conversations of one training: an adapter's voice alone, or all of them for the base."""
    sources = {one: conversations(one, count=count, seed=SEED + 1) for one in VOICES}
    rng = random.Random(SEED)
    for index in range(count):
        mixed = voice == "base" and (index < count * MIXED_SHARE or rng.random() < REHEARSED_SHARE)
        yield next(sources[rng.choice(VOICES) if mixed else voice])


def _batch(rows: list[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [0] * (width - len(row)) for row, _ in rows])
    labels = torch.tensor([row + [-100] * (width - len(row)) for _, row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row, _ in rows])
    return ids, labels, mask


def _tidy(folder: Path) -> None:
    """Round the adapter to bfloat16, name its base neutrally, and drop the model card."""
    weights = folder / "adapter_model.safetensors"
    save_file({key: value.to(torch.bfloat16) for key, value in load_file(weights).items()}, weights)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": NAME}
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "README.md").unlink(missing_ok=True)
