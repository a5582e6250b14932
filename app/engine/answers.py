"""Pieces of answers that chat and text completions share: ids, usage, log-probabilities, events."""

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.engine.sampling import TokenLogprobs
from app.engine.tokenizer import Tokenizer

FINGERPRINT = "tunegate-reference-engine"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Head:
    """What every part of one answer repeats; `created` in Unix seconds."""

    id: str
    model: str
    created: int

    def fields(self, kind: str) -> dict[str, Any]:
        """The opening members of an answer or of one chunk."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def new_head(prefix: str, request_id: str | None, model: str) -> Head:
    """A head with the caller's request id, or a random one."""
    return Head(f"{prefix}-{request_id or uuid.uuid4().hex[:16]}", model, int(time.time()))


def event(body: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Token counts of an answer."""
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


def full_usage(prompt: int, completion: int) -> dict[str, Any]:
    """Token counts with the members vLLM leaves null."""
    return {**usage(prompt, completion), "prompt_tokens_details": None, "completion_tokens_details": None}


def chat_logprobs(tokenizer: Tokenizer, tokens: list[TokenLogprobs], count: int) -> dict[str, Any]:
    """Chat's `logprobs` object; the alternatives start with the chosen token and are `count` in all."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        text = tokenizer.token_text(token)
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}

    return {
        "content": [
            {**entry(one.token, one.logprob), "top_logprobs": [entry(*pair) for pair in one.top[:count]]}
            for one in tokens
        ]
    }


def text_logprobs(tokenizer: Tokenizer, tokens: list[TokenLogprobs], offset: int) -> dict[str, Any]:
    """Text completions' `logprobs` object; `offset` is where the first token's text begins, in characters."""
    texts, offsets = [tokenizer.token_text(one.token) for one in tokens], []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "text_offset": offsets,
        "token_logprobs": [max(one.logprob, -9999.0) for one in tokens],
        "tokens": texts,
        "top_logprobs": [
            {tokenizer.token_text(token): max(logprob, -9999.0) for token, logprob in one.top} for one in tokens
        ],
    }
