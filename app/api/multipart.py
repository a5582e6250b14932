"""`multipart/form-data` as a stream of parts: fields into memory, bounded; a file's bytes to whoever reads them."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.errors import InvalidRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 32
MAX_HEADER_BYTES = 8 * 1024
MAX_FIELD_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """The head of a part; `filename=None` is a field."""

    name: str
    filename: str | None


class Multipart:
    """Reads one body, part after part, in the order in which they were sent."""

    def __init__(self, content_type: str, body: AsyncIterator[bytes]) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not 0 < len(boundary) <= 70:
            raise InvalidRequest("Expected a multipart/form-data body with the parts `file` and `purpose`.")
        self._body = body
        self._queue: deque[Part | bytes | None] = deque()  # a part begins, its bytes, its end
        self._header = (bytearray(), bytearray())
        self._head: dict[bytes, bytes] = {}
        self._head_bytes = self._parts = 0
        self._done = False
        self._parser = MultipartParser(boundary, _callbacks(self))

    async def next_part(self) -> Part | None:
        """The next part's head, past what is left of the one before; None after the last one."""
        while True:
            event = await self._next()
            if isinstance(event, Part) or (event is None and self._done and not self._queue):
                return event

    async def content(self) -> AsyncIterator[bytes]:
        """The bytes of the part whose head was last given."""
        while (event := await self._next()) is not None:
            if isinstance(event, bytes):
                yield event

    async def text(self, name: str) -> str:
        """The content of a short field; raises InvalidRequest when it is long or no text."""
        found = bytearray()
        async for block in self.content():
            found += block
            if len(found) > MAX_FIELD_BYTES:
                raise InvalidRequest(f"{name}: longer than {MAX_FIELD_BYTES} bytes.", param=name)
        try:
            return found.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"{name}: expected UTF-8 text.", param=name) from None

    async def _next(self) -> Part | bytes | None:
        while not self._queue and not self._done:
            block = await anext(self._body, None)
            if block is None:
                raise InvalidRequest("The form ends before its closing boundary.")
            try:
                self._parser.write(block)
            except MultipartParseError:
                raise InvalidRequest("The body is not a multipart form with this boundary.") from None
        return self._queue.popleft() if self._queue else None

    def begin(self) -> None:
        """A part begins."""
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidRequest(f"A form has at most {MAX_PARTS} parts here.")
        self._head, self._head_bytes = {}, 0

    def header(self, at: int, data: bytes, start: int, end: int) -> None:
        """More of a header's name (0) or value (1)."""
        self._head_bytes += end - start
        if self._head_bytes > MAX_HEADER_BYTES:
            raise InvalidRequest("The headers of a form's part are too long.")
        self._header[at].extend(data[start:end])

    def header_end(self) -> None:
        """A header is complete."""
        name, value = self._header
        self._head[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    def headers_end(self) -> None:
        """A part's head is complete."""
        _, options = parse_options_header(self._head.get(b"content-disposition", b"").decode("latin-1"))
        if b"name" not in options:
            raise InvalidRequest("A part of the form has no name.")
        filename = options.get(b"filename")
        said = None if filename is None else filename.decode("utf-8", "replace")
        self._queue.append(Part(options[b"name"].decode("utf-8", "replace"), said))

    def data(self, data: bytes, start: int, end: int) -> None:
        """More of a part's content."""
        if end > start:
            self._queue.append(bytes(data[start:end]))

    def part_end(self) -> None:
        """A part is complete."""
        self._queue.append(None)

    def end(self) -> None:
        """The form is complete."""
        self._done = True


def _callbacks(form: Multipart) -> MultipartCallbacks:
    return {
        "on_part_begin": form.begin,
        "on_header_field": lambda data, start, end: form.header(0, data, start, end),
        "on_header_value": lambda data, start, end: form.header(1, data, start, end),
        "on_header_end": form.header_end,
        "on_headers_finished": form.headers_end,
        "on_part_data": form.data,
        "on_part_end": form.part_end,
        "on_end": form.end,
    }
