"""How many tokens a conversation has: counted by the base model's tokenizer where there is one, else estimated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from adapters.errors import ConfigurationError
from adapters.types import Message

FRAME_TOKENS = 4  # role and separators around one message
_BYTES_PER_TOKEN = 4  # of English text in today's vocabularies of 100,000 tokens and more

Counter = Callable[[Sequence[Message]], int]


def estimate(messages: Sequence[Message]) -> int:
    """Estimate from the length in UTF-8 bytes, rounded up."""
    return sum(FRAME_TOKENS - (-len(_text(message).encode()) // _BYTES_PER_TOKEN) for message in messages)


@lru_cache(maxsize=2)
def token_counter(tokenizer: Path | None) -> Counter:
    """Give the counter of a `tokenizer.json`, loaded once per process."""
    if tokenizer is None:
        return estimate
    from tokenizers import Tokenizer

    if not tokenizer.is_file():
        raise ConfigurationError(f"validation.tokenizer: {tokenizer} is no file; give the base model's tokenizer.json")
    loaded = Tokenizer.from_file(str(tokenizer))

    def count(messages: Sequence[Message]) -> int:
        encodings = loaded.encode_batch([_text(message) for message in messages], add_special_tokens=False)
        return sum(FRAME_TOKENS + len(encoding.ids) for encoding in encodings)

    return count


def _text(message: Message) -> str:
    calls = "".join(call.function.name + call.function.arguments for call in message.tool_calls)
    return (message.content or "") + calls
