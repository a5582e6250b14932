"""Vectors in memory: nearest first, bounded, and close to the float32 truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.cache.index import BLOCK_ROWS, Indexes, ScopeIndex, encode, row_bytes

DIMENSIONS = 24


def unit(rng: np.random.Generator, rows: int, dimensions: int = DIMENSIONS) -> NDArray[np.float32]:
    """Random vectors of length 1."""
    vectors = rng.standard_normal((rows, dimensions)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def name(row: int) -> bytes:
    """The key of a row."""
    return b"%d" % row


def filled(vectors: NDArray[np.float32], max_entries: int = 100_000) -> ScopeIndex:
    """An index of these vectors."""
    index = ScopeIndex(vectors.shape[1], max_entries)
    for row, vector in enumerate(vectors):
        index.add(name(row), encode(vector), b"f%d" % row)
    return index


def test_nearest_are_those_of_float32(rng: np.random.Generator) -> None:
    """Over several blocks, the same neighbours in nearly the same order as exact arithmetic, within 0.003."""
    vectors = unit(rng, 2 * BLOCK_ROWS + 77, 384)
    index = filled(vectors)
    for row in (0, BLOCK_ROWS, len(vectors) - 1):
        asked = unit(rng, 1, 384)[0] * np.float32(0.2) + vectors[row]
        asked /= np.linalg.norm(asked)
        found = index.nearest(asked, 0.0, 5)
        assert found[0].key == name(row)
        assert found[0].features == b"f%d" % row
        for near in found:
            assert near.similarity == pytest.approx(float(vectors[int(near.key)] @ asked), abs=0.003)
        assert [near.similarity for near in found] == sorted((near.similarity for near in found), reverse=True)


def test_threshold_and_limit_bound_what_is_found(rng: np.random.Generator) -> None:
    """Nothing below the threshold, no more than asked for, and nothing in an empty index."""
    vectors = unit(rng, 50)
    index = filled(vectors)
    assert len(index.nearest(vectors[0], -1.0, 3)) == 3
    assert [near.key for near in index.nearest(vectors[7], 0.99, 10)] == [b"7"]
    assert ScopeIndex(DIMENSIONS, 4).nearest(vectors[0], -1.0, 3) == []


def test_a_full_index_overwrites_its_oldest(rng: np.random.Generator) -> None:
    """Of seven turns in an index of four, the last four are left."""
    vectors = unit(rng, 7)
    index = filled(vectors, 4)
    assert len(index) == 4
    assert {near.key for near in index.nearest(vectors[0], -1.0, 9)} == {b"3", b"4", b"5", b"6"}


def test_a_known_key_takes_its_new_vector(rng: np.random.Generator) -> None:
    """Adding a key again moves it."""
    vectors = unit(rng, 3)
    index = filled(vectors[:2])
    index.add(b"0", encode(vectors[2]), b"new")
    assert len(index) == 2
    assert index.nearest(vectors[2], 0.99, 1)[0].features == b"new"


def test_a_row_is_a_scale_and_a_byte_a_dimension(rng: np.random.Generator) -> None:
    """388 bytes for 384 dimensions; a vector of zeros does no harm."""
    assert len(encode(unit(rng, 1, 384)[0])) == row_bytes(384) == 388
    index = ScopeIndex(3, 2)
    index.add(b"zero", encode(np.zeros(3, np.float32)), b"")
    assert index.nearest(np.array([1, 0, 0], np.float32), 0.0, 1)[0].similarity == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=60), st.integers(1, 6))
def test_any_history_leaves_what_a_dictionary_would(history: list[tuple[bool, int]], bound: int) -> None:
    """Adding and forgetting in any order: every key left finds its own vector, and the bound holds."""
    vectors = np.eye(13, dtype=np.float32)
    index = ScopeIndex(13, bound)
    known: set[int] = set()
    for adds, key in history:
        if adds:
            index.add(name(key), encode(vectors[key]), b"")
            known.add(key)
        else:
            index.forget(name(key))
            known.discard(key)
    left = {int(near.key) for near in index.nearest(np.ones(13, np.float32), -1.0, 99)}
    assert len(index) == len(left) <= bound
    assert left <= known
    for key in left:
        assert [near.key for near in index.nearest(vectors[key], 0.99, 9)] == [name(key)]


def test_scopes_and_tenants_are_bounded(rng: np.random.Generator) -> None:
    """The least recently used scope goes: of all when there are too many, of the tenant when it holds too much."""
    indexes = Indexes(dimensions=DIMENSIONS, max_scopes=3, max_entries_per_scope=4, max_entries_per_tenant=6)
    vectors = unit(rng, 4)

    def keep(tenant: str, scope: bytes, rows: int) -> None:
        index = indexes.get(tenant, scope) or indexes.new()
        for row in range(rows):
            index.add(name(row), encode(vectors[row]), b"")
        indexes.keep(tenant, scope, index)

    keep("a", b"1", 4)
    keep("b", b"1", 4)
    keep("a", b"2", 4)  # eight entries of one tenant: its older scope goes, the other tenant's stays
    assert indexes.get("a", b"1") is None
    assert indexes.get("b", b"1") is not None
    assert (indexes.entries("a"), indexes.entries("b")) == (4, 4)
    keep("c", b"1", 1)
    assert indexes.get("a", b"2") is not None
    keep("d", b"1", 1)  # a fourth scope: the least recently used one goes
    assert indexes.get("b", b"1") is None
    assert len(indexes) == 3
    assert indexes.entries("b") == 0


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded numbers."""
    return np.random.default_rng(3)
