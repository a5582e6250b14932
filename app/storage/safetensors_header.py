"""The head of a safetensors file, believed only after every number in it has been checked against the file.

Format (huggingface/safetensors, README): 8 bytes little-endian length N, N bytes of JSON, then the tensors' bytes.
Nothing is allocated or read by a number of the file before that number has been compared with the file's own size, and
no tensor is loaded here at all. The tensors must fill the rest of the file without holes and without overlap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import msgspec

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 16 * 1024 * 1024
MAX_DIMENSIONS = 8
METADATA = "__metadata__"
DTYPE_BYTES: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E5M2": 1,
    "F8_E4M3": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "F64": 8,
    "I64": 8,
    "U64": 8,
}


class BadHeader(Exception):
    """The file is not safetensors; the text says why and holds nothing of the file but numbers of its own."""


class _Info(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as the header declares it."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def read_header(file: BinaryIO, size: int) -> list[Tensor]:
    """The tensors of an open file of `size` bytes, in the order of their places; raises BadHeader."""
    raw = _raw_header(file, size)
    try:
        entries = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        metadata = entries.pop(METADATA, None)
        if metadata is not None:
            msgspec.json.decode(metadata, type=dict[str, str])
        infos = {name: msgspec.json.decode(entry, type=_Info) for name, entry in entries.items()}
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise BadHeader("the header is not the JSON of a safetensors file") from exc
    if not infos:
        raise BadHeader("it holds no tensor")
    _check_places(infos, size - LENGTH_BYTES - len(raw))
    ordered = sorted(infos, key=lambda name: infos[name].data_offsets)
    return [Tensor(name, infos[name].dtype, tuple(infos[name].shape)) for name in ordered]


def _raw_header(file: BinaryIO, size: int) -> bytes:
    prefix = file.read(LENGTH_BYTES)
    if len(prefix) < LENGTH_BYTES:
        raise BadHeader("it is shorter than the eight bytes every safetensors file begins with")
    length = int.from_bytes(prefix, "little")
    if length > size - LENGTH_BYTES:
        raise BadHeader("it says that its header is longer than the file: cut off, or not safetensors")
    if not 0 < length <= MAX_HEADER_BYTES:
        raise BadHeader(f"its header has {length} bytes; expected 1 to {MAX_HEADER_BYTES}")
    raw = file.read(length)
    if len(raw) < length:
        raise BadHeader("it ended while its header was read")
    return raw


def _check_places(infos: Mapping[str, _Info], data_bytes: int) -> None:
    end = 0
    for name, info in sorted(infos.items(), key=lambda item: item[1].data_offsets):
        begin, stop = info.data_offsets
        if begin != end or stop < begin:
            raise BadHeader(f"the places of its tensors overlap or leave holes at byte {end}")
        if stop - begin != _bytes(info):
            raise BadHeader(f"a tensor of {len(info.shape)} dimensions at byte {begin} has not the size its shape says")
        if not name.isprintable():
            raise BadHeader("a tensor's name holds unprintable characters")
        end = stop
    if end != data_bytes:
        raise BadHeader(f"its tensors take {end} bytes but {data_bytes} are there")


def _bytes(info: _Info) -> int:
    width = DTYPE_BYTES.get(info.dtype)
    if width is None:
        raise BadHeader("a tensor has a dtype that safetensors does not know")
    if len(info.shape) > MAX_DIMENSIONS or any(length < 0 for length in info.shape):
        raise BadHeader("a tensor has a negative length or too many dimensions")
    return width * math.prod(info.shape)
