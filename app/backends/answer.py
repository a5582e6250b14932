"""One answer of an upstream as its bytes come in: no I/O; the parsing is llhttp's (httptools).

Everything that is kept is bounded, for an upstream may be hostile: the head, what carries no body (trailers, chunk
extensions, interim answers), the body. Bytes after the answer's end are nobody's: they end the use of the connection,
so that one call can never read what belongs to another.
"""

from __future__ import annotations

import httptools
import msgspec

MAX_HEAD_BYTES = 16 * 1024


class Broken(Exception):
    """The exchange failed; `silent` when the other side hung up before a byte of an answer came."""

    silent = False


class TooLarge(Broken):
    """The answer is larger than it may be."""


class Bounds(msgspec.Struct, frozen=True):
    """What one answer may take; a refusal (any status but 200) is always read whole.

    `whole`: the reader wants the answer in one piece, so it need not hear of its parts.
    """

    whole: bool
    max_bytes: int
    max_refusal_bytes: int
    first_byte_seconds: float
    idle_seconds: float
    total_seconds: float


class Answer:
    """Feed it bytes; `status` is 0 until the head is here, `keep` says whether the connection may be used again."""

    def __init__(self, bounds: Bounds) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.in_parts = not bounds.whole
        self.complete = False
        self.keep = False
        self.begun = False
        self.held_bytes = 0
        self._bounds = bounds
        self._parser = httptools.HttpResponseParser(self)
        self._max_bytes = bounds.max_bytes
        self._framed = False
        self._blocks: list[bytes] = []
        self._size = 0
        self._barren = 0
        self._head_bytes = 0

    def feed(self, data: bytes) -> None:
        """The next bytes; raises Broken for what is no answer or is too large."""
        size, self.begun = self._size, True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self.keep = False
            if self.complete:
                return
            found = exc.__context__
            raise found if isinstance(found, Broken) else Broken(type(exc).__name__) from None
        self._barren = 0 if self._size != size else self._barren + len(data)
        if self._barren > MAX_HEAD_BYTES:
            raise Broken("HeadTooLarge")

    def end(self, error: str | None = None) -> None:
        """The connection is closed, by this error if any: the end of a body without a length; else raises Broken."""
        if self.complete:
            return
        if error is not None or not self.status or self._framed:
            raise Broken(error or "Disconnected")
        self.complete = True

    def take(self) -> bytes | None:
        """What has come since the last time, b"" at the end, None when there is nothing yet (of a whole: not all)."""
        if not self.complete and not (self.in_parts and self._blocks):
            return None
        blocks, self._blocks, self.held_bytes = self._blocks, [], 0
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    # What the parser calls.

    def on_message_begin(self) -> None:
        """An answer begins; only one was asked for, after any number of interim ones."""
        if self.complete:
            raise Broken("UnaskedAnswer")
        self.headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or a trailer."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise Broken("HeadTooLarge")
        if not self.status:
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """A head is here."""
        status = self._parser.get_status_code()
        if status < 200:
            return
        self.status = status
        length = self.headers.get(b"content-length")
        self._framed = length is not None or b"chunked" in self.headers.get(b"transfer-encoding", b"").lower()
        if status != 200:
            self.in_parts = False
            self._max_bytes = min(self._max_bytes, self._bounds.max_refusal_bytes)
        if length is not None and int(length) > self._max_bytes:
            raise TooLarge

    def on_body(self, block: bytes) -> None:
        """Part of the body."""
        self._size += len(block)
        if self._size > self._max_bytes:
            raise TooLarge
        self._blocks.append(block)
        self.held_bytes += len(block)

    def on_message_complete(self) -> None:
        """An answer is here."""
        if self.status:
            self.complete = True
            self.keep = self._parser.should_keep_alive()
