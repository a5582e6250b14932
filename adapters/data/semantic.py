"""Pairs of rows that mean the same: exact cosine over blocks of embeddings, with a guard on numbers and negation.

Every pair of parts is one task: the search is exhaustive (n squared / 2 products, spread over the engine's workers),
for embedding the texts costs more than comparing them up to some hundred thousand rows. Memory per task: two parts'
vectors and one block of products.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.data.near import Arrays, as_edges, write_edges
from adapters.data.stage import Stage

_BLOCK = 1_024


@dataclass(frozen=True, slots=True)
class FindSemantic:
    """The task: write the pairs between two parts whose cosine reaches the threshold and whose facts agree."""

    arrays: Arrays
    target: Stage
    threshold: float

    def __call__(self, index: int) -> int:
        """Search one pair of parts among the rows that `alive.npy` leaves."""
        left_part, right_part = part_pair(index)
        alive = np.load(self.target.folder / "alive.npy", mmap_mode="r")
        left, right = self._rows(left_part, alive), self._rows(right_part, alive)
        edges = list(self._edges(left, right)) if len(right) else []
        write_edges(self.target, index, edges)
        return len(left)

    def _edges(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        """Multiply block by block; a pair inside one part is looked at once, in the order of its rows."""
        right_vectors, right_guard = self._facts(right)
        for start in range(0, len(left), _BLOCK):
            rows = left[start : start + _BLOCK]
            vectors, guard = self._facts(rows)
            cosine = vectors @ right_vectors.T
            near, other = np.nonzero((cosine >= self.threshold) & (guard[:, None] == right_guard[None, :]))
            ahead = rows[near] < right[other]
            pairs = np.stack([rows[near][ahead], right[other][ahead]], axis=1)
            yield as_edges(pairs, cosine[near[ahead], other[ahead]], self.threshold)

    def _rows(self, part: int, alive: NDArray[np.bool_]) -> NDArray[np.int64]:
        start, end = self.arrays.offsets[part], self.arrays.offsets[part + 1]
        return np.flatnonzero(alive[start:end]).astype(np.int64) + start

    def _facts(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
        return self.arrays.take("vectors", rows), self.arrays.take("guard", rows)


def part_pair(index: int) -> tuple[int, int]:
    """Give the index-th pair (left <= right) in the order (0,0) (0,1) (1,1) (0,2) (1,2) (2,2) ..."""
    right = (isqrt(8 * index + 1) - 1) // 2
    return index - right * (right + 1) // 2, right


def pair_count(parts: int) -> int:
    """Give how many such pairs there are."""
    return parts * (parts + 1) // 2
