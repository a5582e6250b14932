"""uvicorn's server, ended by signals without ending the process: what must be said afterwards is still said.

uvicorn raises the signal that it was ended by once more, when it has shut down. By then the process has the system's
own handlers again, so SIGTERM (which Kubernetes sends at every rollout) would kill it with charges not yet written and
leases not yet settled.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

SIGNALS = (signal.SIGTERM, signal.SIGINT)
CANCELLED_SECONDS = 5.0


class Server(uvicorn.Server):
    """Returns from `serve` after SIGTERM or SIGINT, when requests have ended or were broken off at the end of grace.

    A second SIGINT does not wait for them. While what follows `serve` runs, SIGTERM changes nothing any more, and
    SIGINT does what it did before.
    """

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let signals end this server, and nothing else."""
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does, and then wait for the requests that it has broken off: they still say what they used."""
        await super().shutdown(sockets)
        if broken := set(self.server_state.tasks):
            await asyncio.wait(broken, timeout=CANCELLED_SECONDS)
