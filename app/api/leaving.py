"""uvicorn's HTTP protocol, which also tells running requests at once that their client has gone.

ASGI tells an application only in answer to another `receive()`, so it would need a task of its own beside every
request. Here the connection itself tells, through an extension in the scope; under another server the extension is
absent, and the endpoint falls back to that task. An answer's head and body leave in one write (`joined`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.joined import Joined

LEAVING = "tunegate.leaving"


class Leaving:
    """Who wants to know that the client of one connection has gone; several requests of it may (pipelining)."""

    def __init__(self, flow: FlowControl) -> None:
        self._flow = flow
        self._listeners: set[Callable[[], None]] = set()
        self._gone = False

    def tell(self, listener: Callable[[], None]) -> None:
        """Call it when the client goes, or now if it has gone. Keeps the socket read, for its end is noticed there."""
        self._listeners.add(listener)
        self._flow.resume_reading()
        if self._gone:
            listener()

    def forget(self, listener: Callable[[], None]) -> None:
        """It does not want to know any more."""
        self._listeners.discard(listener)

    def now(self) -> None:
        """The client has gone."""
        self._gone = True
        for listener in tuple(self._listeners):
            listener()


class LeavingProtocol(HttpToolsProtocol):
    """Give it to uvicorn as `http`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client is here."""
        super().connection_made(Joined(transport))
        self._leaving = Leaving(self.flow)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        super().connection_lost(exc)
        self._leaving.now()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope["extensions"] = {LEAVING: self._leaving}  # type: ignore[dict-item]  # typed for plain data
