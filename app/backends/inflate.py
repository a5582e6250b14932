"""Undoes a compression that nobody asked for; what comes out is bounded like an answer that was not compressed."""

from __future__ import annotations

import zlib

from app.backends.answer import Broken, TooLarge

MAX_BLOCK_BYTES = 32 * 1024 * 1024  # from one block of input, which is a few hundred kilobytes
_WINDOWS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}


class Inflate:
    """One compressed body; raises Broken for an unknown encoding and for bytes that are not of it, or TooLarge."""

    def __init__(self, encoding: bytes, max_bytes: int) -> None:
        window = _WINDOWS.get(encoding.strip().lower())
        if window is None:
            raise Broken("UnknownEncoding")
        self._stream = zlib.decompressobj(window)
        self._left = max_bytes

    def block(self, data: bytes) -> bytes:
        """What this block of input adds."""
        try:
            plain = self._stream.decompress(data, min(self._left, MAX_BLOCK_BYTES) + 1)
        except zlib.error:
            raise Broken("NotOfItsEncoding") from None
        self._left -= len(plain)
        if self._left < 0 or self._stream.unconsumed_tail:
            raise TooLarge
        return plain

    def end(self) -> None:
        """The body has ended; raises Broken if what it holds has not."""
        if not self._stream.eof:
            raise Broken("CutShort")
