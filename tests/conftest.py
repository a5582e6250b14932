"""Real stores for tests: one Redis server a session, emptied between tests; one PostgreSQL, a database for each."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import running_postgres
from tests.support.processes import free_port, stop
from tests.support.s3_server import Bucket, s3_server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis from the operating system on loopback; a missing one fails loudly."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.fail("redis-server is missing: run `make deps` (Debian package redis-server)")
    folder: Path = tmp_path_factory.mktemp("redis")
    port = free_port()
    process = subprocess.Popen(
        [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
    )
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.02)
    yield f"redis://127.0.0.1:{port}/0"
    stop(process)


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """An empty Redis."""
    port = int(redis_server.split(":")[2].split("/", maxsplit=1)[0])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"FLUSHALL\r\n")
        connection.recv(64)
    return redis_server


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[Bucket]:
    """A bucket of a real S3 server on loopback; a missing one fails loudly."""
    with s3_server() as bucket:
        yield bucket


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real PostgreSQL on loopback, as a URL without a database's name; a missing one fails loudly."""
    with running_postgres(tmp_path_factory.mktemp("postgres")) as url:
        yield url
