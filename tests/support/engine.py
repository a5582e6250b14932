"""A reference engine in a process of its own, for tests that talk to it over a real socket."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.support.processes import free_port, stop

START_SECONDS = 30
_ROOT = Path(__file__).resolve().parents[2]
_POLL_SECONDS = 0.05


@contextmanager
def engine_server(*, lora_modules: Sequence[str] = (), **flags: str | float | Path | None) -> Iterator[str]:
    """Start an engine and yield its URL; flags are those of `python -m app.engine`, with underscores.

    `lora_modules` are NAME=PATH. The process gets a free port and a group of its own, which is killed at the end; what
    it wrote is shown when it does not come up.
    """
    port = free_port()
    command = [sys.executable, "-m", "app.engine", "--port", str(port)]
    for name, value in flags.items():
        command += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    command += ["--lora-modules", *lora_modules] if lora_modules else []
    with running_server(command, f"http://127.0.0.1:{port}", seconds=START_SECONDS) as (url, _):
        yield url


@contextmanager
def running_server(
    command: Sequence[str], url: str, *, seconds: float, environment: dict[str, str] | None = None
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a server until the context ends; yields once /health answers 200, fails with its log when it does not."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            cwd=_ROOT,
            stdout=log,
            stderr=log,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        try:
            wait_until(lambda: _ready(url, process, log), seconds, lambda: f"{url} did not come up:\n{_text(log)}")
            yield url, process
        finally:
            stop(process, group=True)


def wait_until(condition: Callable[[], bool], seconds: float, complaint: Callable[[], str] | None = None) -> None:
    """Poll until a condition holds, or fail."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(complaint() if complaint else f"not within {seconds} s")
        time.sleep(_POLL_SECONDS)


def _ready(url: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> bool:
    if process.poll() is not None:
        raise AssertionError(f"the server ended with status {process.returncode}:\n{_text(log)}")
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _text(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode(errors="replace")[-8000:]
