"""Child processes of tests: free ports, and an end that leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess


def free_port() -> int:
    """A TCP port on loopback that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def stop(process: subprocess.Popen[bytes] | subprocess.Popen[str], *, group: bool = False) -> None:
    """End a child (and its process group) politely, then for sure."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        if group:
            os.killpg(process.pid, sign)
        else:
            process.send_signal(sign)
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            continue
