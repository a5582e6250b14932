"""A TCP proxy that misbehaves on demand: delays, trickles, swallows, resets, refuses. For every store and upstream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_LINGER_ZERO = b"\x01\x00\x00\x00\x00\x00\x00\x00"


@dataclass(slots=True)
class FaultProxy:
    """What the proxy does to bytes from now on; change the fields while it runs.

    `delay_seconds` holds back every block of the answering side; `bytes_per_block` trickles it; `swallow` takes bytes
    and passes none on (half-open); `refuse` closes new connections at once.
    """

    port: int = 0
    delay_seconds: float = 0.0
    bytes_per_block: int = 65536
    swallow: bool = False
    refuse: bool = False
    connections: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def reset_all(self) -> None:
        """End every connection with a TCP reset."""
        for writer in list(self._writers):
            sock = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(1, 13, _LINGER_ZERO)  # SOL_SOCKET, SO_LINGER
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answering: bool) -> None:
        while data := await reader.read(self.bytes_per_block if answering else 65536):
            if answering and self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            if self.swallow:
                continue
            writer.write(data)
            await writer.drain()

    async def _serve(self, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refuse:
            return
        up_reader, up_writer = await asyncio.open_connection(host, port)
        self._writers |= {writer, up_writer}
        pumps = {
            asyncio.ensure_future(self._pump(reader, up_writer, answering=False)),
            asyncio.ensure_future(self._pump(up_reader, writer, answering=True)),
        }
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._writers -= {writer, up_writer}
            up_writer.close()


@asynccontextmanager
async def fault_proxy(port: int, host: str = "127.0.0.1") -> AsyncIterator[FaultProxy]:
    """Stand in front of `host:port` on a free port of loopback until the context ends."""
    proxy = FaultProxy()
    running: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await proxy._serve(host, port, reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # nobody listens behind, or the proxy is closed: the connection ends, as it would without one
        finally:
            running.discard(task)
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
