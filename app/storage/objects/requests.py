"""Signed requests to one bucket: repeated where that can help, and their refusals in words for the operator."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx2

from app.errors import Unavailable
from app.storage.objects.staging import blocks_of
from app.storage.s3 import EMPTY_SHA256, S3, canonical_query

PAUSES = (0.2, 1.0)  # seconds before the second and the third try
TIMEOUT = httpx2.Timeout(60.0, connect=10.0)
_NOTHING_KEPT = "Nothing was kept; try again later."
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>")


@dataclass(frozen=True, slots=True)
class Body:
    """A span of a file, and its hash; it can be sent again."""

    path: Path
    start: int
    end: int
    sha256: str

    async def sent(self) -> AsyncIterator[bytes]:
        """The bytes."""
        with await asyncio.to_thread(self.path.open, "rb") as file:
            async for block in blocks_of(file, self.start, self.end):
                yield block


@asynccontextmanager
async def connected(url: str, s3: S3) -> AsyncIterator[Requests]:
    """Requests about `s3://bucket/folder`, over connections that are closed with the block."""
    bucket, _, folder = url.removeprefix("s3://").strip("/").partition("/")
    async with httpx2.AsyncClient(timeout=TIMEOUT, trust_env=False, follow_redirects=False) as client:
        yield Requests(client, s3, bucket, f"{folder}/" if folder else "")


class Requests:
    """Requests about the objects under one prefix (empty, or with a slash at its end) of one bucket."""

    def __init__(
        self,
        client: httpx2.AsyncClient,
        s3: S3,
        bucket: str,
        prefix: str = "",
        *,
        pauses: tuple[float, ...] = PAUSES,
    ) -> None:
        self._client = client
        self._s3 = s3
        self._bucket = bucket
        self.prefix = prefix
        self._pauses = pauses

    def key(self, name: str) -> str:
        """The key of an object by its whole name in the bucket."""
        return name.removeprefix(self.prefix)

    async def send(
        self,
        method: str,
        key: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Body | None = None,
        content: bytes = b"",
        known: Collection[int] = (),
    ) -> httpx2.Response:
        """The answer to a request about an object, or (with the empty key) about the bucket.

        Raises Unavailable for everything but a 2xx and the statuses in `known`. Every request here may be repeated.
        """

        async def once() -> httpx2.Response:
            try:
                answer = await self._client.send(self._request(method, key, query or {}, body, content))
            except httpx2.HTTPError as exc:
                raise _silent(exc) from exc
            return _checked(answer, known)

        for pause in self._pauses:
            with suppress(_MayPass):
                return await once()
            await asyncio.sleep(pause)
        return await once()

    @asynccontextmanager
    async def opened(self, key: str, headers: Mapping[str, str]) -> AsyncIterator[httpx2.Response]:
        """The answer to a GET whose body has not been read; 404 is left to the caller. Not repeated."""
        request = self._request("GET", key, {}, None, b"", headers)
        try:
            answer = await self._client.send(request, stream=True)
        except httpx2.HTTPError as exc:
            raise _silent(exc) from exc
        try:
            if not answer.is_success and answer.status_code != 404:
                await answer.aread()
            yield _checked(answer, (404,))
        finally:
            await answer.aclose()

    def _request(
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        body: Body | None,
        content: bytes,
        more: Mapping[str, str] | None = None,
    ) -> httpx2.Request:
        path = "/" + quote(self._bucket if not key else f"{self._bucket}/{self.prefix}{key}", safe="/-_.~")
        asked = canonical_query(query)
        address = self._s3.endpoint.rstrip("/") + path + (f"?{asked}" if asked else "")
        sha256 = hashlib.sha256(content).hexdigest() if content else EMPTY_SHA256
        length = len(content)
        if body is not None:
            sha256, length = body.sha256, body.end - body.start
        host = urlsplit(address).netloc
        headers = self._s3.signed(method, host, path, more or {}, query=asked, sha256=sha256)
        headers |= {"content-length": str(length), "accept-encoding": "identity"}
        return self._client.build_request(
            method, address, headers=headers, content=content if body is None else body.sent()
        )


class _MayPass(Unavailable):
    """An outage that another try may not meet."""


def _checked(answer: httpx2.Response, known: Collection[int]) -> httpx2.Response:
    """The answer, unless it is one that nobody expected."""
    if answer.is_success or answer.status_code in known:
        return answer
    found = _CODE.search(answer.text)
    code = f" {found[1]}" if found else ""
    kind = _MayPass if answer.status_code >= 500 or answer.status_code == 429 else Unavailable
    raise kind(f"The object store answered {answer.status_code}{code}. {_NOTHING_KEPT}")


def _silent(exc: httpx2.HTTPError) -> _MayPass:
    return _MayPass(f"The object store cannot be reached: {type(exc).__name__}. {_NOTHING_KEPT}")
