"""An S3-compatible store: its address and key, signatures (AWS Signature Version 4), and a bounded download.

A signature covers host, date, path, query and the body's hash, so a request cannot be replayed for another object or
with other bytes. What is downloaded is streamed to a file; an object that is larger than its bound, or cut short, is an
error and not half a file.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

import httpx2

from app.errors import InvalidRequest, Unavailable

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
SECONDS = 60.0
BLOCK_BYTES = 1024 * 1024
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True, slots=True)
class S3:
    """One store and the key that opens it; `endpoint` is an address such as https://s3.eu-central-1.amazonaws.com."""

    endpoint: str
    region: str
    access_key: str
    secret_key: str = field(repr=False)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def download(self, url: str, name: str, target: Path, most: int) -> None:
        """Write the object `url/name` (`s3://bucket/prefix`) to a file of at most `most` bytes; blocking.

        Raises InvalidRequest for an address or object that is none, Unavailable when the store cannot be read.
        """
        bucket, key = split(url)
        path = "/" + quote(f"{bucket}/{key}/{name}".replace("//", "/"), safe="/-_.~")
        address = self.endpoint.rstrip("/") + path
        headers = self.signed("GET", urlsplit(address).netloc, path, {})
        try:
            with (
                httpx2.Client(timeout=SECONDS, follow_redirects=False, trust_env=False) as client,
                client.stream("GET", address, headers=headers) as answer,
            ):
                if answer.status_code in (403, 404):
                    raise InvalidRequest(f"path: {name} is not in this bucket, or may not be read", param="path")
                if answer.status_code != 200:
                    raise Unavailable(f"The object store answered {answer.status_code}.")
                _write(answer, target, most)
        except (httpx2.HTTPError, OSError) as exc:
            raise Unavailable(f"The object store could not be read: {type(exc).__name__}.") from exc

    def signed(
        self,
        method: str,
        host: str,
        path: str,
        more: Mapping[str, str],
        *,
        query: str = "",
        sha256: str = EMPTY_SHA256,
    ) -> dict[str, str]:
        """The headers of a request; `path` and `query` as they are sent, `sha256` of the body."""
        now = self.clock()
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        headers = {**more, "host": host, "x-amz-content-sha256": sha256, "x-amz-date": stamp}
        names = sorted(headers)
        listed = ";".join(names)
        canonical = "\n".join([method, path, query, *(f"{name}:{headers[name]}" for name in names), "", listed, sha256])
        scope = f"{day}/{self.region}/s3/aws4_request"
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        key = f"AWS4{self.secret_key}".encode()
        for part in (day, self.region, "s3", "aws4_request"):
            key = _mac(key, part)
        signature = _mac(key, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashed}").hex()
        credential = f"Credential={self.access_key}/{scope},SignedHeaders={listed},Signature={signature}"
        return {**headers, "authorization": f"AWS4-HMAC-SHA256 {credential}"}


def canonical_query(parameters: Mapping[str, str]) -> str:
    """Parameters in the order and escaping that are signed; send exactly this."""
    return urlencode(sorted(parameters.items()), quote_via=quote, safe="-_.~")


def split(url: str) -> tuple[str, str]:
    """Bucket and prefix of `s3://bucket/prefix`; raises InvalidRequest."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    parts = key.strip("/").split("/")
    whole = url.startswith("s3://") and _BUCKET.fullmatch(bucket) is not None
    if not whole or any(part in ("", ".", "..") for part in parts):
        raise InvalidRequest("path: expected s3://bucket/folder", param="path")
    return bucket, "/".join(parts)


def _mac(key: bytes, message: str) -> bytes:
    return hmac.new(key, message.encode(), hashlib.sha256).digest()


def _write(answer: httpx2.Response, target: Path, most: int) -> None:
    written = 0
    with target.open("xb") as file:
        for block in answer.iter_bytes(BLOCK_BYTES):
            written += len(block)
            if written > most:
                raise InvalidRequest(f"path: {target.name} is larger than {most} bytes", param="path")
            file.write(block)
