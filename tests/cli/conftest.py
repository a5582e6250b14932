"""One real gateway for the command line, and the command line as a user has it: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli.main import app
from tests.support.gateway import Gateway, gateway
from tests.support.s3_server import Bucket

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Shell:
    """Runs `tunegate` in the present folder with an environment."""

    folder: Path
    environment: dict[str, str]

    def __call__(self, *arguments: str, stdin: str | bytes = "", **environment: str) -> Result:
        """Run one command to its end, in this process: starting Python is most of what a command takes."""
        done = CliRunner().invoke(app, arguments, input=stdin, env={**self.environment, **environment})
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return Result(done.exit_code, done.stdout, done.stderr)

    def apart(self, *arguments: str) -> Result:
        """Run one command in a process of its own, as a user does."""
        command = [sys.executable, "-m", "app.cli", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **self.environment}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory, s3_bucket: Bucket) -> Iterator[Gateway]:
    """A gateway on embedded stores with a provider that nobody serves: administration needs no model."""
    s3 = s3_bucket.s3
    store = {"endpoint": s3.endpoint, "access_key": s3.access_key, "signing_key": s3.secret_key}
    settings = {
        "cache": {"semantic": False},
        "adapters": {"s3": store},
        "providers": [{"name": "main", "base_url": "http://127.0.0.1:9"}],
        "prices": {"models": {"main/*": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}}},
    }
    with gateway(tmp_path_factory.mktemp("cli"), settings) as running:
        yield running


@pytest.fixture
def shell(live: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A shell in an empty folder, whose environment names the gateway and the folder of its admin secret."""
    for name in list(os.environ):
        if name.startswith("TUNEGATE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    data = live.log.parent / "data"
    return Shell(tmp_path, {"TUNEGATE_URL": live.url, "TUNEGATE_DATA": str(data), "COLUMNS": "200"})
