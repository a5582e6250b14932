"""Which rows stay: exact duplicates by hash, near ones by MinHash, ones of the same meaning by embeddings.

The first of its kind stays, a real example before a synthetic one; so what was kept is kept when data grows behind it.
A row goes only when a row that *stays* is like it, never through a chain. Whatever reaches the lower `group` threshold
is one cluster, chains included and dropped rows too: a cluster is what may not stand on two sides of a split. The texts
stay on disk; this part of the work holds some 60 bytes per row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapters.data.engine import Engine, Task
from adapters.data.groups import Groups
from adapters.data.near import Arrays, FindNear, arrays_of, read_edges
from adapters.data.rows import Drop, Outcome, read_examples
from adapters.data.semantic import FindSemantic, pair_count
from adapters.data.stage import Progress, Stage, open_stage
from adapters.data.storage import replacing
from adapters.settings import Deduplication

_VERSION = "1"
REASONS = ("", "duplicate:exact", "duplicate:near", "duplicate:semantic")
EXACT, NEAR, SEMANTIC = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Search:
    """Where and with what duplicates are looked for."""

    work: Path
    engine: Engine
    progress: Progress
    rules: Deduplication


@dataclass(slots=True)
class Decisions:
    """One entry per row: why it goes (0: it stays), which row it repeats, and the first row of its cluster."""

    reason: NDArray[np.uint8]
    original: NDArray[np.int64]
    cluster: NDArray[np.int64]


def decide(search: Search, prints: Stage, bands: int) -> Stage:
    """Find the duplicates among all rows of a fingerprint stage; writes `reason`, `original` and `cluster`."""
    rules = search.rules.model_dump_json(exclude={"embeddings"})
    semantic = str(search.rules.embeddings is not None)
    stage = open_stage(search.work, "duplicates", _VERSION, rules, semantic, prints.fingerprint)
    if stage.manifest() is None:
        decisions = _decide(search, prints, arrays_of(prints), bands)
        for name in ("reason", "original", "cluster"):
            _save(stage.folder / f"{name}.npy", getattr(decisions, name))
        stage.finish()
    return stage


@dataclass(frozen=True, slots=True)
class Unique:
    """The task: write the rows of one part that stay, with their cluster, and the others as drops."""

    source: Stage
    decisions: Stage
    arrays: Arrays
    target: Stage

    def __call__(self, index: int) -> int:
        """Keep or drop each row as decided."""
        start, end = self.arrays.offsets[index], self.arrays.offsets[index + 1]
        reason, cluster = (self._slice(name, start, end) for name in ("reason", "cluster"))
        names = self._names(cluster)
        outcome = Outcome([])
        for row, example in enumerate(read_examples(self.source.part(index))):
            if reason[row]:
                name = f"cluster {names[row]}"
                outcome.drops.append(Drop(example.origin, REASONS[reason[row]], detail=name, id=example.id))
            else:
                outcome.kept.append(msgspec.structs.replace(example, cluster=names[row]))
        self.target.seal(index, outcome)
        return end - start

    def _names(self, cluster: NDArray[np.int64]) -> list[str]:
        """Name clusters by the content of their first row, so that a name means the same in every version."""
        return [f"{low:016x}" for low in self.arrays.take("exact", cluster)[:, 0].tolist()] if len(cluster) else []

    def _slice(self, name: str, start: int, end: int) -> NDArray[Any]:
        array: NDArray[Any] = np.load(self.decisions.folder / f"{name}.npy", mmap_mode="r")[start:end]
        return array


def _decide(search: Search, prints: Stage, arrays: Arrays, bands: int) -> Decisions:
    size = arrays.offsets[-1]
    decisions = Decisions(np.zeros(size, np.uint8), np.full(size, -1, np.int64), np.arange(size, dtype=np.int64))
    groups = Groups(size)
    rank = _rank(arrays)
    _drop_exact(decisions, groups, arrays.whole("exact"), rank)
    near = _edges(search, prints, "near", decisions, lambda stage: FindNear(arrays, stage, search.rules.group), bands)
    _drop_alike(decisions, near[near["similarity"] >= search.rules.near], rank, NEAR)
    groups.union_all(zip(near["a"].tolist(), near["b"].tolist(), strict=True))
    if search.rules.embeddings is not None:
        count, threshold = pair_count(arrays.parts), search.rules.semantic
        alike = _edges(
            search, prints, "semantic", decisions, lambda stage: FindSemantic(arrays, stage, threshold), count
        )
        _drop_alike(decisions, alike, rank, SEMANTIC)
        groups.union_all(zip(alike["a"].tolist(), alike["b"].tolist(), strict=True))
    decisions.cluster = groups.roots()
    return decisions


def _rank(arrays: Arrays) -> NDArray[np.int64]:
    """Give each row's place in the order in which rows are preferred."""
    order = np.argsort(arrays.whole("synthetic"), kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank


def _drop_exact(decisions: Decisions, groups: Groups, hashes: NDArray[np.uint64], rank: NDArray[np.int64]) -> None:
    order = np.lexsort((rank, hashes[:, 1], hashes[:, 0]))
    ordered = hashes[order]
    repeats = np.concatenate([[False], (ordered[1:] == ordered[:-1]).all(axis=1)]) if len(order) else order.astype(bool)
    first = np.maximum.accumulate(np.where(repeats, 0, np.arange(len(order))))
    rows, originals = order[repeats], order[first[repeats]]
    decisions.reason[rows], decisions.original[rows] = EXACT, originals
    groups.union_all(zip(rows.tolist(), originals.tolist(), strict=True))


def _drop_alike(decisions: Decisions, edges: NDArray[Any], rank: NDArray[np.int64], reason: int) -> None:
    """Go through the rows by rank: one goes when a row before it that stays is like it."""
    swap = rank[edges["a"]] > rank[edges["b"]]
    before, after = np.where(swap, edges["b"], edges["a"]), np.where(swap, edges["a"], edges["b"])
    order = np.lexsort((rank[before], rank[after]))
    for earlier, later in zip(before[order].tolist(), after[order].tolist(), strict=True):
        if not decisions.reason[later] and not decisions.reason[earlier]:
            decisions.reason[later], decisions.original[later] = reason, earlier


def _edges(
    search: Search,
    prints: Stage,
    name: str,
    decisions: Decisions,
    task: Callable[[Stage], Task],
    count: int,
) -> NDArray[Any]:
    """Let the engine search for pairs among the rows that are left, in a stage that can go on after a kill."""
    alive = decisions.reason == 0
    rules = search.rules.model_dump_json(exclude={"embeddings"})
    stage = open_stage(search.work, f"pairs-{name}", _VERSION, rules, prints.fingerprint)
    search.progress.start(f"find {name} duplicates", count)
    if stage.manifest() is None:
        _save(stage.folder / "alive.npy", alive)
        for rows in search.engine.run(task(stage), _unsealed(stage, count)):
            search.progress.advance(rows)
        stage.finish()
    return read_edges(stage)


def _unsealed(stage: Stage, count: int) -> Sequence[int]:
    done = {seal.index for seal in stage.seals()}
    return [index for index in range(count) if index not in done]


def _save(path: Path, array: NDArray[Any]) -> None:
    with replacing(path) as file:
        np.save(file, array, allow_pickle=False)
