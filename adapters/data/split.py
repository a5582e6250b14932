"""Who learns, who checks, who judges: 80/10/10 by default, with nothing of one customer or one cluster on two sides.

Rows of one customer, of one near-duplicate cluster, and a synthetic row with its real parent form a group
(transitively). A group goes where the hash of its first row says: it stays there whatever is added later, unless new
rows join two groups. Two rules refine the hash. Stratification: of the first ten groups of each topic exactly one goes
to test and one to validation (those with the lowest hashes), so that a small topic is judged too; a topic is settled
once it has ten. Size: a group with more than `largest_group` of all rows goes to train, for no judge should hear one
customer only. First is meant in the order of the sources: a dataset that grows at its end keeps its sides.

Synthetic rows are never judged by: one whose group is not in train is dropped. Some 50 bytes per row are held.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapters.data.groups import Groups
from adapters.settings import Splitting
from adapters.types import Split

SIDES = (Split.TRAIN, Split.VALIDATION, Split.TEST)
TRAIN, VALIDATION, TEST, DROPPED = 0, 1, 2, 3
STRATUM = 10


class Facts(msgspec.Struct, frozen=True):
    """The few fields of an example that decide its side; read without its texts."""

    id: str
    customer: str = ""
    topic: str = ""
    cluster: str = ""
    parent: str = ""
    synthetic: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """The facts of all rows as numbers: 64-bit hashes (0: none), places in `topics`, and the chance that decides."""

    chance: NDArray[np.float64]
    id: NDArray[np.uint64]
    customer: NDArray[np.uint64]
    cluster: NDArray[np.uint64]
    parent: NDArray[np.uint64]
    topic: NDArray[np.int32]
    synthetic: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.chance)


def tabulate(facts: Iterable[Facts], seed: str) -> Table:
    """Read facts as a stream into numbers."""
    chances, topics, synthetic = array("d"), array("i"), array("B")
    hashes = {name: array("Q") for name in ("id", "customer", "cluster", "parent")}
    places: dict[str, int] = {}
    for fact in facts:
        chances.append(chance(seed, fact.id))
        topics.append(places.setdefault(fact.topic, len(places)))
        synthetic.append(fact.synthetic)
        for name, column in hashes.items():
            value = getattr(fact, name)
            column.append(_hash(value) if value else 0)
    columns = {name: np.frombuffer(column, dtype=np.uint64) for name, column in hashes.items()}
    return Table(
        chance=np.frombuffer(chances, dtype=np.float64),
        topic=np.frombuffer(topics, dtype=np.int32),
        synthetic=np.frombuffer(synthetic, dtype=np.uint8),
        **columns,
    )


def assign(table: Table, rules: Splitting) -> NDArray[np.uint8]:
    """Give each row's side: 0 train, 1 validation, 2 test, 3 dropped (synthetic, but its group is not in train)."""
    roots = group_roots(table)
    out = _sides(table, roots, rules)[roots]
    out[(table.synthetic == 1) & (out != TRAIN)] = DROPPED
    return out


def group_roots(table: Table) -> NDArray[np.int64]:
    """Join rows by customer, by cluster and by parent; gives each row's first row."""
    groups = Groups(len(table))
    groups.union_equal(table.customer)
    groups.union_equal(table.cluster)
    named = np.isin(table.id, table.parent[table.parent != 0])
    groups.union_equal(np.where(table.parent != 0, table.parent, np.where(named, table.id, np.uint64(0))))
    return groups.roots()


def chance(seed: str, id_: str) -> float:
    """Give the number in [0, 1) that decides a group's side."""
    return (_hash(f"{seed}\x1f{id_}") >> 11) / 2**53


def _sides(table: Table, roots: NDArray[np.int64], rules: Splitting) -> NDArray[np.uint8]:
    """Decide for every root, in the order of the sources; entries of other rows mean nothing."""
    firsts, sizes = np.unique(roots, return_counts=True)
    sides = np.where(
        table.chance < rules.test, TEST, np.where(table.chance < rules.test + rules.validation, VALIDATION, TRAIN)
    ).astype(np.uint8)
    largest = max(1.0, rules.largest_group * len(table))
    sides[firsts[sizes > largest]] = TRAIN
    usual = firsts[sizes <= largest]
    for topic in np.unique(table.topic[usual]):
        stratum = usual[table.topic[usual] == topic][:STRATUM]
        if len(stratum) == STRATUM:
            sides[stratum[np.lexsort((stratum, table.chance[stratum]))]] = _stratified(rules)
    return sides


def _stratified(rules: Splitting) -> list[int]:
    """Share out ten groups in the order of their hashes: test, validation, and the rest to train."""
    test, validation = max(1, round(rules.test * STRATUM)), max(1, round(rules.validation * STRATUM))
    return [TEST] * test + [VALIDATION] * validation + [TRAIN] * (STRATUM - test - validation)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
