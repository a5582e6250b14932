"""Adapters out of a bucket: signed as S3 expects it, bounded, and judged like any other adapter."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest

from app.errors import InvalidRequest, Unavailable
from app.storage.artifacts import import_adapter
from app.storage.s3 import S3, split
from tests.storage.adapter import folder
from tests.support.s3_server import Bucket as RealBucket

KEY = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")


@dataclass(slots=True)
class Bucket:
    """A fake store that checks signatures with the same key, computed by itself from what arrived."""

    objects: dict[str, bytes] = field(default_factory=dict)
    status: int | None = None
    refused: int = 0
    url: str = ""


@contextmanager
def _bucket() -> Iterator[Bucket]:
    bucket = Bucket()

    class Handler(BaseHTTPRequestHandler):
        """Answers GETs."""

        def do_GET(self) -> None:
            """One object, if the signature is right."""
            at = datetime.strptime(self.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            expected = S3(bucket.url, "eu", *KEY, clock=lambda: at).signed("GET", self.headers["host"], self.path, {})
            body = bucket.objects.get(self.path)
            if self.headers["authorization"] != expected["authorization"]:
                bucket.refused += 1
                self.send_error(403)
            elif bucket.status is not None or body is None:
                self.send_error(bucket.status or 404)
            else:
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        bucket.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield bucket
        finally:
            server.shutdown()
            thread.join()


def _put(bucket: Bucket, source: Path, prefix: str) -> None:
    for file in source.iterdir():
        bucket.objects[f"/adapters/{prefix}/{file.name}"] = file.read_bytes()


def test_the_signature_is_amazons_own_example() -> None:
    """The published vector of AWS Signature Version 4: GET Object."""
    when = datetime(2013, 5, 24, tzinfo=UTC)
    store = S3("https://s3.amazonaws.com", "us-east-1", *KEY, clock=lambda: when)
    headers = store.signed("GET", "examplebucket.s3.amazonaws.com", "/test.txt", {"range": "bytes=0-9"})
    assert headers["authorization"].endswith(
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


def test_an_adapter_is_imported_from_a_bucket(tmp_path: Path) -> None:
    """The same bytes are the same version, wherever they came from."""
    source = folder(tmp_path / "source")
    with _bucket() as bucket:
        _put(bucket, source, "team%20a/support")
        store = S3(bucket.url, "eu", *KEY)
        there = import_adapter(tmp_path / "store", "acme", "support", "s3://adapters/team a/support", s3=store)
    assert there == import_adapter(tmp_path / "store", "acme", "support", str(source))


def test_an_adapter_is_imported_from_a_real_server(tmp_path: Path, s3_bucket: RealBucket) -> None:
    """A server that recomputes every signature gives the objects to the holder of its key, and to nobody else."""
    source = folder(tmp_path / "source")
    host = s3_bucket.s3.endpoint.removeprefix("http://")
    for file in source.iterdir():
        content, path = file.read_bytes(), f"/{s3_bucket.name}/adapters/team%20a/{file.name}"
        headers = s3_bucket.s3.signed("PUT", host, path, {}, sha256=hashlib.sha256(content).hexdigest())
        httpx2.put(f"http://{host}{path}", content=content, headers=headers).raise_for_status()
    where = f"s3://{s3_bucket.name}/adapters/team a"
    there = import_adapter(tmp_path / "store", "acme", "support", where, s3=s3_bucket.s3)
    assert there == import_adapter(tmp_path / "store", "acme", "support", str(source))
    with pytest.raises(InvalidRequest, match="may not be read"):
        import_adapter(tmp_path / "store", "acme", "a", where, s3=replace(s3_bucket.s3, secret_key="wrong"))


def test_what_is_not_there_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    """A wrong key, a missing object, a store that is ill, an adapter that is none."""
    source = folder(tmp_path / "source")
    with _bucket() as bucket:
        _put(bucket, source, "support")
        store = S3(bucket.url, "eu", *KEY)
        with pytest.raises(InvalidRequest, match="not in this bucket"):
            import_adapter(tmp_path / "store", "acme", "support", "s3://adapters/other", s3=store)
        with pytest.raises(InvalidRequest, match="not in this bucket"):
            import_adapter(
                tmp_path / "store", "acme", "a", "s3://adapters/support", s3=S3(bucket.url, "eu", KEY[0], "wrong")
            )
        assert bucket.refused == 1
        bucket.objects["/adapters/support/adapter_model.safetensors"] = b"not safetensors"
        with pytest.raises(InvalidRequest, match="safetensors"):
            import_adapter(tmp_path / "store", "acme", "support", "s3://adapters/support", s3=store)
        bucket.status = 500
        with pytest.raises(Unavailable):
            import_adapter(tmp_path / "store", "acme", "support", "s3://adapters/support", s3=store)
    with pytest.raises(Unavailable):
        import_adapter(tmp_path / "store", "acme", "support", "s3://adapters/support", s3=store)
    with pytest.raises(InvalidRequest, match="no object store"):
        import_adapter(tmp_path / "store", "acme", "support", "s3://adapters/support")
    assert list((tmp_path / "store" / "adapters").iterdir()) == []


def test_an_object_is_bounded(tmp_path: Path) -> None:
    """A file larger than it may be is not read to its end."""
    with _bucket() as bucket:
        bucket.objects["/adapters/a/big"] = b"x" * 3_000_000
        with pytest.raises(InvalidRequest, match="larger"):
            S3(bucket.url, "eu", *KEY).download("s3://adapters/a", "big", tmp_path / "big", 1_500_000)


@pytest.mark.parametrize(
    "url", ["s3://", "s3://b", "s3://adapters", "s3://../x", "s3://adapters/../x", "s3:/a/b", "s3://A/b"]
)
def test_an_address_is_a_bucket_and_a_folder(url: str) -> None:
    """Anything else names nothing."""
    with pytest.raises(InvalidRequest):
        split(url)


def test_the_secret_is_not_shown() -> None:
    """A store in a log line or traceback keeps its key to itself."""
    assert KEY[1] not in repr(S3("https://s3.example", "eu", *KEY))
