"""Disjoint sets over row numbers: what belongs together, however long the chain of reasons is."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


class Groups:
    """Union-find with path halving; a root is always its group's smallest row, so the order of unions is nothing."""

    def __init__(self, size: int) -> None:
        self._parent = array("q", range(size))

    def find(self, row: int) -> int:
        """Give the smallest row of the group."""
        parent = self._parent
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    def union(self, left: int, right: int) -> None:
        """Make one group of two."""
        left, right = self.find(left), self.find(right)
        self._parent[max(left, right)] = min(left, right)

    def union_all(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Make one group of each pair's two."""
        for left, right in pairs:
            self.union(left, right)

    def union_equal(self, keys: NDArray[np.uint64]) -> None:
        """Put rows with the same key into one group; key 0 means none."""
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        same = np.flatnonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] != 0))
        self.union_all(zip(order[same].tolist(), order[same + 1].tolist(), strict=True))

    def roots(self) -> NDArray[np.int64]:
        """Give each row's root."""
        return np.array([self.find(row) for row in range(len(self._parent))], dtype=np.int64)
