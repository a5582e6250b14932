"""An object's bytes as a response: its length and hash are said first, and a broken download can go on (`Range`)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.errors import OutOfRange
from app.storage.objects import Objects

Reading = AbstractAsyncContextManager[AsyncIterator[bytes]]
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})?|bytes=-(\d{1,18})")


class ObjectResponse(Response):
    """Sends a part of an object block by block, and closes it whatever becomes of the client.

    The object is opened before the head goes out: one that is gone is still answered with 404.
    """

    def __init__(self, reading: Reading, length: int, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(None, status, media_type="application/octet-stream")
        self._reading, self._left = reading, length
        self.headers.update({**headers, "content-length": str(length)})

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send head and body."""
        async with self._reading as blocks:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for block in blocks:
                self._left -= len(block)
                await send({"type": "http.response.body", "body": block, "more_body": True})
            if self._left:
                raise OSError("the object is shorter than it was")
            await send({"type": "http.response.body", "body": b""})


def respond_with(
    request: Request, objects: Objects, key: str, *, size: int, sha256: str, filename: str | None = None
) -> ObjectResponse:
    """The object, or the part of it that was asked for; raises OutOfRange."""
    start, end = asked_range(request.headers.get("range"), size)
    headers = {"etag": f'"{sha256}"', "accept-ranges": "bytes"}
    if filename is not None:
        headers["content-disposition"] = f'attachment; filename="{_ascii(filename)}"'
    partial = request.headers.get("range") is not None and (start, end) != (0, size)
    if partial:
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    return ObjectResponse(objects.read(key, start, end), end - start, 206 if partial else 200, headers)


def asked_range(header: str | None, size: int) -> tuple[int, int]:
    """From where to before where; a header that is not understood asks for everything, as HTTP has it."""
    found = _RANGE.fullmatch(header or "")
    if found is None:
        return 0, size
    first, last, tail = found.groups()
    start = max(0, size - int(tail)) if tail else int(first)
    end = min(size, int(last) + 1) if last else size
    if start >= end:
        content_range = ((b"content-range", f"bytes */{size}".encode()),)
        raise OutOfRange(f"The file has {size} bytes.", param="range", headers=content_range)
    return start, end


def _ascii(filename: str) -> str:
    return re.sub(r"[^A-Za-z0-9._ -]", "_", filename)
