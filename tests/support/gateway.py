"""A real gateway process for tests: its own data folder, ports and settings, administered over its admin API."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import yaml
from openai import OpenAI

from app.cli.doctor import probe_address
from tests.support.processes import free_port, stop

START_SECONDS = 60
PRICE = {"input_usd_per_mtok": 0.5, "output_usd_per_mtok": 1.5}


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway."""

    url: str
    metrics_url: str
    admin_key: str
    process: subprocess.Popen[bytes]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)

    def admin(self) -> httpx2.Client:
        """A client of the admin API."""
        headers = {"authorization": f"Bearer {self.admin_key}"}
        return httpx2.Client(base_url=f"{self.url}/admin/v1", headers=headers, timeout=30)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One admin call that must succeed."""
        with self.admin() as admin:
            answer = admin.request(method, path, json=body) if body is not None else admin.request(method, path)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        made: dict[str, Any] = answer.json() if answer.content else {}
        return made

    def key(self, tenant: str, **fields: Any) -> str:
        """The secret of a new key."""
        return str(self.call("POST", f"/tenants/{tenant}/keys", {"name": "test", **fields})["secret"])

    def openai(self, key: str) -> OpenAI:
        """The official SDK, unmodified, without its own retries."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)


@contextmanager
def gateway(
    folder: Path, settings: dict[str, Any], *, admin_key: str | None = None, port: int | None = None
) -> Iterator[Gateway]:
    """Start a gateway with these settings over defaults that suit tests, and end it; on a free port unless given."""
    port, metrics_port = port or free_port(), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "data_folder": str(folder / "data"),
        "server": {"port": port, "metrics_port": metrics_port, "shutdown_grace_seconds": 5},
        "redis_timeout_ms": 500,  # a busy test machine is not a slow Redis; tests of that set their own
        **settings,
    }
    config = folder / f"tunegate-{port}.yaml"
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    log = folder / f"gateway-{port}.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TUNEGATE_", "OPENAI_"))}
    environment |= {"TUNEGATE_ADMIN_KEY": admin_key} if admin_key else {}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve", "--config", str(config)],
            stdout=sink,
            stderr=sink,
            env=environment,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, process, log)
        secret = admin_key or (folder / "data" / "admin.key").read_text(encoding="utf-8").strip()
        yield Gateway(url, f"http://127.0.0.1:{metrics_port}", secret, process, log, environment)
    finally:
        stop(process, group=True)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not probe_address(f"{url}/readyz"):
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(encoding="utf-8", errors="replace")[-4000:]
            raise AssertionError(f"the gateway did not become ready:\n{tail}")
        time.sleep(0.05)
