"""Pairs of rows that look alike: one task per LSH band, verified on the signatures, written to disk.

Rows that share a band's hash are candidates. A crowd (a sentence that hundreds wrote) is compared with its first row
and along itself, not all with all: it stays one group, and the work stays linear. Memory per task: 24 bytes per row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.data.stage import PartSeal, Stage
from adapters.data.storage import replacing

EDGE = np.dtype([("a", "<i8"), ("b", "<i8"), ("similarity", "<f4")])
ALL_PAIRS = 32
_PAIRS_AT_ONCE = 16_384


@dataclass(frozen=True, slots=True)
class Arrays:
    """The arrays of a fingerprint stage under row numbers that run through all parts."""

    stage: Stage
    offsets: tuple[int, ...]

    def whole(self, name: str) -> NDArray[Any]:
        """Give an array of all rows; only for those of a few bytes per row."""
        return np.concatenate([self._load(part, name) for part in range(self.parts)])

    def band(self, band: int) -> NDArray[np.uint64]:
        """Give one band's hash of every row."""
        return np.concatenate([self._load(part, "bands")[band] for part in range(self.parts)])

    def take(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Give some rows of an array that stays on disk."""
        part_of = np.searchsorted(self.offsets, rows, side="right") - 1
        out: NDArray[Any] | None = None
        for part in np.unique(part_of):
            chosen = part_of == part
            values = self._load(int(part), name)[rows[chosen] - self.offsets[part]]
            out = np.empty((len(rows), *values.shape[1:]), dtype=values.dtype) if out is None else out
            out[chosen] = values
        return np.empty(0) if out is None else out

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return len(self.offsets) - 1

    def _load(self, part: int, name: str) -> NDArray[Any]:
        array: NDArray[Any] = np.load(self.stage.array(part, name), mmap_mode="r", allow_pickle=False)
        return array


def arrays_of(stage: Stage) -> Arrays:
    """Number the rows of a fingerprint stage through."""
    rows = [part.rows for part in stage.require().parts]
    return Arrays(stage, (0, *np.cumsum(rows, dtype=int).tolist()))


@dataclass(frozen=True, slots=True)
class FindNear:
    """The task: write the pairs of one band whose estimated Jaccard similarity reaches the threshold."""

    arrays: Arrays
    target: Stage
    threshold: float

    def __call__(self, band: int) -> int:
        """Search one band among the rows that `alive.npy` leaves."""
        rows = np.flatnonzero(np.load(self.target.folder / "alive.npy"))
        pairs = candidates(self.arrays.band(band)[rows])
        edges = [self._verified(rows[pairs[start : start + _PAIRS_AT_ONCE]]) for start in _steps(len(pairs))]
        write_edges(self.target, band, edges)
        return len(rows)

    def _verified(self, pairs: NDArray[np.int64]) -> NDArray[Any]:
        left, right = (self.arrays.take("minhash", pairs[:, side]) for side in (0, 1))
        similarity = (left == right).mean(axis=1, dtype=np.float32)
        return as_edges(pairs, similarity, self.threshold)


def candidates(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Give pairs of positions with the same hash, smaller first."""
    order = np.argsort(hashes, kind="stable")
    borders = np.flatnonzero(np.diff(hashes[order])) + 1
    starts, ends = np.concatenate([[0], borders]), np.concatenate([borders, [len(order)]])
    crowds = [order[start:end] for start, end in zip(starts, ends, strict=True) if end - start > 1]
    pairs = [pair for crowd in crowds for pair in _pairs(crowd.tolist())]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def as_edges(pairs: NDArray[np.int64], similarity: NDArray[np.float32], threshold: float) -> NDArray[Any]:
    """Give the pairs that reach a threshold with their similarity."""
    enough = similarity >= threshold
    edges = np.empty(int(enough.sum()), dtype=EDGE)
    edges["a"], edges["b"] = pairs[enough].min(axis=1), pairs[enough].max(axis=1)
    edges["similarity"] = similarity[enough]
    return edges


def write_edges(stage: Stage, index: int, edges: Sequence[NDArray[Any]]) -> None:
    """Write and seal the pairs that one task found."""
    found = np.concatenate([np.empty(0, dtype=EDGE), *edges])
    with replacing(stage.array(index, "edges")) as file:
        np.save(file, found, allow_pickle=False)
    stage.seal_arrays(PartSeal(index, len(found), "", {}, {}))


def read_edges(stage: Stage) -> NDArray[Any]:
    """Give every pair once, ordered by its rows."""
    parts = [np.load(stage.array(part.index, "edges"), allow_pickle=False) for part in stage.require().parts]
    return np.unique(np.concatenate([np.empty(0, dtype=EDGE), *parts]))


def _pairs(crowd: list[int]) -> Iterator[tuple[int, int]]:
    if len(crowd) <= ALL_PAIRS:
        yield from combinations(crowd, 2)
        return
    for before, row in pairwise(crowd):
        yield crowd[0], row
        if before != crowd[0]:
            yield before, row


def _steps(length: int) -> range:
    return range(0, length, _PAIRS_AT_ONCE)
