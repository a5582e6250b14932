"""Sentence embeddings over HTTP, from the gateway's own `/v1/embeddings` or any compatible endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters.errors import EmbeddingError
from adapters.settings import Embeddings, secret

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class HttpEmbedder:
    """A callable from texts to unit vectors; it travels to other processes by its settings and opens its own client."""

    settings: Embeddings

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts in their order; raises EmbeddingError."""
        from openai import APIError, OpenAI

        key = secret(self.settings.key_env) or "none"
        rows: list[list[float]] = []
        with OpenAI(
            base_url=self.settings.base_url,
            api_key=key,
            timeout=self.settings.timeout_seconds,
            max_retries=_ATTEMPTS - 1,
        ) as client:
            for start in range(0, len(texts), self.settings.batch):
                batch = [text or " " for text in texts[start : start + self.settings.batch]]
                try:
                    answer = client.embeddings.create(model=self.settings.model, input=batch, encoding_format="float")
                except APIError as exc:
                    raise EmbeddingError(
                        f"deduplication.embeddings: {self.settings.base_url} answered {type(exc).__name__}; check that "
                        f"model `{self.settings.model}` is served there and that {self.settings.key_env} is its key"
                    ) from exc
                rows += [item.embedding for item in sorted(answer.data, key=lambda item: item.index)]
        return unit(rows, len(texts))


def unit(rows: Sequence[Sequence[float]], expected: int) -> NDArray[np.float32]:
    """Give vectors of length one; a wrong count or a vector of zeros is refused, for it would be near everything."""
    vectors = np.array(rows, dtype=np.float32)
    if len(vectors) != expected or (expected and vectors.ndim != 2):
        raise EmbeddingError(f"the embeddings endpoint gave {len(rows)} vectors for {expected} texts")
    if not expected:
        return np.empty((0, 1), dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(vectors).all() or (lengths == 0).any():
        raise EmbeddingError("the embeddings endpoint gave a vector of zeros, or one that is not a number")
    units: NDArray[np.float32] = vectors / lengths
    return units
