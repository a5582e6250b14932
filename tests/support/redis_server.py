"""A real redis-server of the test's own, to be stopped, continued, killed and started again."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import free_port, stop


class RedisServer:
    """One server on one port; `start` again after `kill` finds what its append-only file kept."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run until `kill`; returns when it accepts connections."""
        binary = shutil.which("redis-server")
        if binary is None:
            pytest.fail("redis-server is missing: run `make deps` (Debian package redis-server)")
        command = [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""]
        self._process = subprocess.Popen([*command, *self._options], stdout=subprocess.DEVNULL)
        for _ in range(500):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        pytest.fail("redis-server did not start")

    def pause(self) -> None:
        """Stop it in the middle of whatever it does (SIGSTOP)."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on (SIGCONT)."""
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a chance to say goodbye (SIGKILL)."""
        self._send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(timeout=5)

    def close(self) -> None:
        """End it, paused or not."""
        if self._process is not None and self._process.poll() is None:
            self.go_on()
            stop(self._process)

    def _send(self, sign: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(sign)


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """A running server with these options of redis-server."""
    server = RedisServer(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.close()
