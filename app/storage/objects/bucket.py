"""Objects in a bucket of an S3-compatible store, so that gateways share nothing but an address and a key.

An upload waits in a file of this machine until its hash is known and it has been judged; then it goes up signed with
that hash, so the store can refuse bytes that were damaged on the way. A large one goes in parts and appears when the
last is confirmed. Every call can be repeated: what is answered with 5xx, or not at all, is tried again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree as ET

import httpx2

from app.errors import NotFound, Unavailable
from app.storage.objects.keys import checked_key, checked_kind, checked_owner
from app.storage.objects.requests import Body, Requests
from app.storage.objects.staging import BLOCK_BYTES, STALE_SECONDS, Staging, writing
from app.types import Stored

PART_BYTES = 64 * 1024 * 1024  # of 10,000 parts: S3 takes objects of 640 GB in these
_GONE = "The bytes are not there (any more)."


class BucketObjects:
    """The store of any number of gateways; `app.interfaces.Objects` says what is promised."""

    def __init__(self, requests: Requests, staging: Staging, *, part_bytes: int = PART_BYTES) -> None:
        self._requests = requests
        self._staging = staging
        self._part_bytes = part_bytes

    async def put(
        self,
        owner: str,
        parts: AsyncIterator[bytes],
        *,
        max_bytes: int,
        sha256: str | None = None,
        judge: Callable[[Path], None] = lambda _: None,
    ) -> Stored:
        """Keep the parts as one object of `owner`."""
        checked_owner(owner)
        async with self._staging.received(parts, max_bytes=max_bytes, sha256=sha256, judge=judge) as (path, stored):
            key = f"{owner}/{stored.sha256}"
            if stored.bytes <= self._part_bytes:
                await self._requests.send("PUT", key, body=Body(path, 0, stored.bytes, stored.sha256))
            else:
                await self._put_in_parts(key, path, stored.bytes)
        return stored

    async def _put_in_parts(self, key: str, path: Path, size: int) -> None:
        """Parts one after another, so that memory holds one block; what fails on the way is taken back."""
        begun = _xml(await self._requests.send("POST", key, {"uploads": ""}))
        upload = {"uploadId": begun.findtext("{*}UploadId") or ""}
        async with AsyncExitStack() as unless_whole:
            unless_whole.push_async_callback(self._requests.send, "DELETE", key, upload, known=(404,))
            tags = [await self._put_part(key, upload, number, body) async for number, body in self._parts(path, size)]
            # A completion can fail after its head has said 200, and one that is repeated can find its work done.
            answer = await self._requests.send("POST", key, upload, content=_completion(tags), known=(404,))
            done = answer.status_code == 404 or _xml(answer).tag.endswith("CompleteMultipartUploadResult")
            if not done or await self.size(key) != size:
                raise Unavailable("The object store did not put the parts together. Nothing was kept; try again later.")
            unless_whole.pop_all()

    async def _parts(self, path: Path, size: int) -> AsyncIterator[tuple[int, Body]]:
        for number, start in enumerate(range(0, size, self._part_bytes), 1):
            end = min(start + self._part_bytes, size)
            yield number, Body(path, start, end, await asyncio.to_thread(_hash, path, start, end))

    async def _put_part(self, key: str, upload: dict[str, str], number: int, body: Body) -> tuple[int, str]:
        answer = await self._requests.send("PUT", key, {**upload, "partNumber": str(number)}, body=body)
        return number, answer.headers["etag"]

    async def size(self, key: str) -> int | None:
        """The object's bytes, or None where there is no object."""
        answer = await self._requests.send("HEAD", checked_key(key), known=(404,))
        return None if answer.status_code == 404 else int(answer.headers["content-length"])

    @asynccontextmanager
    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes from `start` to before `end`."""
        span = {} if (start, end) == (0, None) else {"range": f"bytes={start}-{'' if end is None else end - 1}"}
        async with self._requests.opened(checked_key(key), span) as answer:
            if answer.status_code == 404:
                raise NotFound(_GONE)
            yield _told(answer)

    @asynccontextmanager
    async def file(self, key: str) -> AsyncIterator[BinaryIO]:
        """The object as a file on this machine, which goes when the block is left."""
        async with self._staging.file() as path, self.read(key) as blocks:
            with writing(), path.open("xb") as file:
                async for block in blocks:
                    await asyncio.to_thread(file.write, block)
            with path.open("rb") as copied:
                yield copied

    async def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        await self._requests.send("DELETE", checked_key(key), known=(404,))

    async def delete_all(self, owner: str) -> None:
        """Remove every object of this owner."""
        for found in [found async for found in self._listed(checked_owner(owner))]:
            await self.delete(found.key)

    async def old_names(self, kind: str, before: float) -> set[str]:
        """Owners of this kind that got nothing since `before`, by the store's clock."""
        newest: dict[str, float] = {}
        async for found in self._listed(checked_kind(kind)):
            name = found.key.split("/")[1]
            newest[name] = max(newest.get(name, 0), found.at)
        return {name for name, at in newest.items() if at < before}

    async def sweep(self, now: float | None = None) -> int:
        """Remove what uploads that were broken off have left, here and in the bucket; returns how many."""
        before = (time.time() if now is None else now) - STALE_SECONDS
        listed = _xml(await self._requests.send("GET", "", {"uploads": "", "prefix": self._requests.prefix}))
        stale = [upload for upload in listed.iterfind("{*}Upload") if _instant(upload, "Initiated") < before]
        for upload in stale:
            key = self._requests.key(upload.findtext("{*}Key") or "")
            await self._requests.send("DELETE", key, {"uploadId": upload.findtext("{*}UploadId") or ""}, known=(404,))
        return len(stale) + await self._staging.sweep(now)

    async def _listed(self, folder: str) -> AsyncIterator[_Listed]:
        """Every object under `folder/`, page by page."""
        asked = {"list-type": "2", "prefix": f"{self._requests.prefix}{folder}/"}
        while True:
            page = _xml(await self._requests.send("GET", "", asked))
            for entry in page.iterfind("{*}Contents"):
                key = self._requests.key(entry.findtext("{*}Key") or "")
                yield _Listed(key, _instant(entry, "LastModified"))
            if page.findtext("{*}IsTruncated") != "true":
                return
            asked["continuation-token"] = page.findtext("{*}NextContinuationToken") or ""


@dataclass(frozen=True, slots=True)
class _Listed:
    """An object of a listing, and when it was written (seconds of the store's clock)."""

    key: str
    at: float


async def _told(answer: httpx2.Response) -> AsyncIterator[bytes]:
    try:
        async for block in answer.aiter_raw(BLOCK_BYTES):
            yield block
    except httpx2.HTTPError as exc:
        raise Unavailable(f"The object store broke off: {type(exc).__name__}.") from exc


def _completion(tags: list[tuple[int, str]]) -> bytes:
    whole = ET.Element("CompleteMultipartUpload")
    for number, tag in tags:
        part = ET.SubElement(whole, "Part")
        ET.SubElement(part, "PartNumber").text = str(number)
        ET.SubElement(part, "ETag").text = tag
    return ET.tostring(whole)


def _xml(answer: httpx2.Response) -> ET.Element:
    try:
        return ET.fromstring(answer.content)  # noqa: S314 - the operator's own store, and expat bounds entities
    except ET.ParseError as exc:
        raise Unavailable("The object store answered something that is not XML; is the address that of S3?") from exc


def _instant(entry: ET.Element, name: str) -> float:
    return datetime.fromisoformat(entry.findtext(f"{{*}}{name}") or "").timestamp()


def _hash(path: Path, start: int, end: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while start < end and (block := file.read(min(BLOCK_BYTES, end - start))):
            start += len(block)
            digest.update(block)
    return digest.hexdigest()
