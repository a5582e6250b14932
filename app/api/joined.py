"""A client's socket that is written once a turn of the event loop: an answer's head and its body leave together.

uvicorn writes them one after the other, and each write is a system call that wakes the client: a twentieth of a
request's time. What is written within one turn leaves at its end; much of it at once, so that back-pressure is felt.
What the request has said to Redis in that turn leaves first, for it was queued first.
"""

from __future__ import annotations

import asyncio
from typing import Any

JOINED_BYTES = 64 * 1024  # beyond it a copy costs more than a system call
HELD_BYTES = 1024 * 1024


class Joined(asyncio.Transport):
    """Wraps the transport of a connection; only its writes are other than that one's own."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held: list[bytes] = []
        self._held_bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send at the end of this turn, or now if there is much."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(bytes(data))
        self._held_bytes += len(data)
        if self._held_bytes > HELD_BYTES:
            self._flush()

    def close(self) -> None:
        """Close after what has been written."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the transport knows of itself."""
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Let the client's bytes wait."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take the client's bytes."""
        self._transport.resume_reading()

    def _flush(self) -> None:
        held, self._held = self._held, []
        size, self._held_bytes = self._held_bytes, 0
        if held and not self._transport.is_closing():
            for block in held if size > JOINED_BYTES else (b"".join(held),):
                self._transport.write(block)
