"""A real server that speaks S3 on loopback (moto's), which believes signatures as little as Amazon does."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2

from app.storage.s3 import S3
from tests.support.processes import free_port, stop

FREE_CALLS = 4  # made before anybody has a key: a user, its rights, its key, the bucket
RIGHTS = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'


@dataclass(frozen=True)
class Bucket:
    """A bucket, and who may use it."""

    s3: S3
    name: str


@contextmanager
def s3_server() -> Iterator[Bucket]:
    """A bucket of its own in a server of its own; a server that does not start fails loudly."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env={"INITIAL_NO_AUTH_ACTION_COUNT": str(FREE_CALLS), "PATH": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with httpx2.Client(base_url=url, timeout=30, trust_env=False) as client:
            _wait(client, process)
            access, secret = _key(client)
            client.put("/bucket", headers=_of("s3")).raise_for_status()
        yield Bucket(S3(url, "us-east-1", access, secret), "bucket")
    finally:
        stop(process)


def _wait(client: httpx2.Client, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError("the S3 server has ended; it is the package moto with flask and flask-cors")
        try:
            client.get("/moto-api/")
        except httpx2.TransportError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("the S3 server did not start")


def _key(client: httpx2.Client) -> tuple[str, str]:
    """A user that may do everything: its access key, and the secret half."""

    def ask(action: str, **fields: str) -> str:
        form = {"Action": action, "Version": "2010-05-08", "UserName": "gateway", **fields}
        answer = client.post("/", data=form, headers=_of("iam"))
        return answer.raise_for_status().text

    ask("CreateUser")
    ask("PutUserPolicy", PolicyName="all", PolicyDocument=RIGHTS)
    made = ask("CreateAccessKey")
    return _between(made, "AccessKeyId"), _between(made, "SecretAccessKey")


def _of(service: str) -> Mapping[str, str]:
    """A header by which moto knows which of Amazon's services is meant."""
    return {"authorization": f"AWS4-HMAC-SHA256 Credential=none/20260101/us-east-1/{service}/aws4_request"}


def _between(text: str, tag: str) -> str:
    return text.split(f"<{tag}>", 1)[1].split(f"</{tag}>", 1)[0]
