"""What has been seen before, in memory: datasketch's LSH index over users' texts, for sets that are small."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.data.fingerprint import PERMUTATION_SEED, grams, minhash_library, normal, signatures_of

_PERMUTATIONS = 128


class Seen:
    """An index of texts by likeness; `like` gives the name of one that is near."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._lsh: Any = minhash_library().MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS)
        self._signatures: dict[str, Any] = {}

    def like(self, text: str) -> str | None:
        """Give the name of the most similar text seen, if it reaches the threshold."""
        signature = _signature(text)
        near = sorted(self._lsh.query(signature))
        scored = [(similarity(signature, self._signatures[name]), name) for name in near]
        best = max(scored, default=(0.0, ""))
        return best[1] if best[0] >= self._threshold else None

    def add(self, name: str, text: str) -> None:
        """Remember a text under a name; a name is remembered once."""
        if name not in self._signatures:
            self._signatures[name] = _signature(text)
            self._lsh.insert(name, self._signatures[name])


def text_similarity(left: str, right: str) -> float:
    """Estimate the Jaccard similarity of two texts."""
    return similarity(_signature(left), _signature(right))


def signature_matrix(texts: Iterable[str]) -> NDArray[np.uint32]:
    """Give the signatures of texts, one a row, for comparing one text with many at once."""
    rows = [*signatures_of((normal(text) for text in texts), _PERMUTATIONS)]
    return np.stack(rows) if rows else np.empty((0, _PERMUTATIONS), dtype=np.uint32)


def similarities(matrix: NDArray[np.uint32], signature: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Estimate the Jaccard similarity of one text with each of many."""
    means: NDArray[np.float64] = (matrix == signature).mean(axis=1)
    return means


def similarity(left: Any, right: Any) -> float:
    """Estimate the Jaccard similarity of two signatures."""
    return float(np.mean(left.hashvalues == right.hashvalues))


@lru_cache(maxsize=16_384)
def _signature(text: str) -> Any:
    signature = minhash_library().MinHash(_PERMUTATIONS, PERMUTATION_SEED, hashfunc=int, scheme="affine32")
    signature.update_batch(grams(normal(text)))
    return signature
