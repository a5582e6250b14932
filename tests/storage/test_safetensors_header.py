"""Safetensors headers, hostile ones most of all: refused with a reason, never believed, never slow."""

from __future__ import annotations

import io
import json
import random
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.numpy import load as official_load

from app.storage.safetensors_header import MAX_HEADER_BYTES, BadHeader, read_header
from tests.storage.adapter import header, tensor, weights


def read(file: bytes) -> list[Any]:
    """Read a header out of memory."""
    return read_header(io.BytesIO(file), len(file))


def test_a_valid_header_gives_its_tensors_in_the_order_of_their_places() -> None:
    """Names, dtypes and shapes are those that were written; metadata is no tensor."""
    head = {"b": tensor("F16", [2, 2], 16, 24), "a": tensor("F32", [4], 0, 16), "__metadata__": {"format": "pt"}}
    found = read(weights(head, b"\x00" * 24))
    assert [(one.name, one.dtype, one.shape) for one in found] == [("a", "F32", (4,)), ("b", "F16", (2, 2))]


def test_scalars_and_empty_tensors_are_as_in_the_format() -> None:
    """A shape of no dimensions is one value, a length of 0 is none."""
    head = {"s": tensor("F32", [], 0, 4), "e": tensor("F32", [0, 7], 4, 4)}
    assert [one.name for one in read(weights(head, b"\x00" * 4))] == ["s", "e"]


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"PK\x03\x04",
        b"\x80\x04\x95" + b"\x00" * 40,
        struct.pack("<Q", 2**64 - 1) + b"{}",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 0) + b"\x00" * 64,
        struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{" + b" " * (MAX_HEADER_BYTES + 64),
        weights(b"[]"),
        weights(b"null"),
        weights(b"{"),
        weights(b"{}"),
        weights(b"\xff\xfe"),
        weights(b"[" * 100_000),
        weights(b'{"a":' * 50_000),
        weights({"__metadata__": {"format": "pt"}}, b""),
        weights({"__metadata__": {"format": 1}, **header()}),
        weights({"__metadata__": [], **header()}),
        weights({"a": 1}),
        weights({"a": tensor("F32", [16], 0, 64) | {"code": "x"}}),
        weights({"a": {"dtype": "F32", "shape": [16]}}),
        weights({"a": tensor("F33", [16], 0, 64)}),
        weights({"a": tensor("f32", [16], 0, 64)}),
        weights({"a": tensor("F32", [-16], 0, 64)}),
        weights({"a": tensor("F32", [-4, -4], 0, 64)}),
        weights({"a": tensor("F32", [1.5], 0, 64)}),  # type: ignore[list-item]  # hostile on purpose
        weights({"a": tensor("F32", [True], 0, 4)}, b"\x00" * 4),
        weights({"a": tensor("F32", [16], 0, 63)}),
        weights({"a": tensor("F32", [16], 64, 0)}),
        weights({"a": tensor("F32", [16], -64, 0)}),
        weights({"a": tensor("F32", [16], 0, 2**64)}),
        weights({"a": tensor("F32", [2**62, 4], 0, 64)}),
        weights({"a": tensor("F32", [2**200], 0, 64)}),
        weights({"a": tensor("F32", [1] * 9, 0, 4)}, b"\x00" * 4),
        weights({"a": tensor("F32", [8], 0, 32)}),
        weights({"a": tensor("F32", [8], 32, 64)}),
        weights({"a": tensor("F32", [8], 0, 32), "b": tensor("F32", [8], 0, 32)}, b"\x00" * 32),
        weights({"a": tensor("F32", [8], 0, 32), "b": tensor("F32", [8], 36, 68)}, b"\x00" * 68),
        weights({"a\n": tensor("F32", [16], 0, 64)}),
    ],
)
def test_each_of_these_is_refused(file: bytes) -> None:
    """Every lie about lengths, places, dtypes and shapes is found by comparing, before anything is allocated."""
    with pytest.raises(BadHeader):
        read(file)


def test_every_truncation_is_refused() -> None:
    """A file cut off anywhere is not read."""
    whole = weights()
    for length in range(len(whole)):
        with pytest.raises(BadHeader):
            read(whole[:length])


def test_a_size_that_is_not_the_files_is_refused() -> None:
    """A file that shrank while it was read is found."""
    whole = weights()
    with pytest.raises(BadHeader):
        read_header(io.BytesIO(whole[:40]), len(whole))


def mutated(number: int) -> bytes:
    """A valid file with a few bytes changed, inserted or cut, or a header of random JSON."""
    chance = random.Random(number)
    whole = bytearray(weights())
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(whole)) if whole else 0
        match chance.randrange(4):
            case 0:
                whole[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                whole[at:at] = chance.choice((b"0", b"9", b"-", b"[", b'"', b"\\", b"\xff", b"e9"))
            case 2:
                del whole[at : at + chance.randrange(1, 9)]
            case _:
                whole[0:8] = struct.pack("<Q", chance.choice((0, 1, len(whole) - 8, 2**31, 2**63, 2**64 - 1)))
    return bytes(whole)


def test_whatever_passes_is_accepted_by_the_format_s_own_library() -> None:
    """Five thousand fuzzed files: each is refused, or is one that safetensors itself reads with the same shapes."""
    accepted = 0
    for number in range(5000):
        file = mutated(number)
        try:
            tensors = read(file)
        except BadHeader:
            continue
        try:
            loaded = official_load(file)
        except SafetensorError as exc:
            pytest.fail(f"case {number} was accepted here and refused there: {exc}")
        assert {one.name: one.shape for one in tensors} == {name: array.shape for name, array in loaded.items()}
        accepted += 1
    assert accepted > 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(head=st.dictionaries(st.text(max_size=8), JSON, max_size=4))
def test_any_json_is_read_or_refused(head: dict[str, Any]) -> None:
    """No header, however odd, raises anything but BadHeader."""
    try:
        read(weights(json.dumps(head).encode(errors="surrogatepass"), b""))
    except BadHeader:
        return
    assert all(set(value) == {"dtype", "shape", "data_offsets"} for name, value in head.items() if name[:2] != "__")
