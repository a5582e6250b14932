"""all-MiniLM-L6-v2 in plain float32 numpy: slow, obvious, and what the quantised graph is measured against."""

from __future__ import annotations

from math import erf, sqrt

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from app.cache.minilm import ModelFiles

HEADS = 12
HIDDEN = 384

_erf = np.vectorize(erf, otypes=[np.float32])


class ReferenceBert:
    """Embeds one text at a time, as the published model does."""

    def __init__(self, files: ModelFiles) -> None:
        self._weights = load_file(files.weights)
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(files.tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(256)

    def embed(self, text: str) -> NDArray[np.float32]:
        """The unit vector of one text."""
        ids = self._tokenizer.encode(text).ids
        weights = self._weights
        hidden = weights["embeddings.word_embeddings.weight"][ids]
        hidden = hidden + weights["embeddings.position_embeddings.weight"][: len(ids)]
        hidden = hidden + weights["embeddings.token_type_embeddings.weight"][0]
        hidden = self._normalised(hidden, "embeddings.LayerNorm")
        for layer in range(6):
            hidden = self._layer(hidden, f"encoder.layer.{layer}")
        mean = hidden.mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean), np.float32)

    def _layer(self, hidden: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        attended = self._dense(self._attention(hidden, f"{name}.attention.self"), f"{name}.attention.output.dense")
        hidden = self._normalised(attended + hidden, f"{name}.attention.output.LayerNorm")
        wide = self._dense(hidden, f"{name}.intermediate.dense")
        narrow = self._dense(wide * (1 + _erf(wide / sqrt(2))) / 2, f"{name}.output.dense")
        return self._normalised(narrow + hidden, f"{name}.output.LayerNorm")

    def _attention(self, hidden: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        query, key, value = (
            self._dense(hidden, f"{name}.{part}").reshape(len(hidden), HEADS, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / sqrt(HIDDEN / HEADS)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        return np.asarray((shares @ value).transpose(1, 0, 2).reshape(len(hidden), HIDDEN))

    def _dense(self, hidden: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        return np.asarray(hidden @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"])

    def _normalised(self, hidden: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        centred = hidden - hidden.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
        return np.asarray(scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"])
