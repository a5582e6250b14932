"""The door of the process: inference paths go straight to their endpoints, everything else to the application.

A framework's routing and middlewares cost more than all stages of a request together (`docs/performance.md`), and the
inference endpoints need none of them: they check the method, bound the body and refuse in OpenAI's envelope themselves.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send


class Front:
    """An ASGI application made of endpoints by exact path, with or without a closing slash, and of a rest."""

    def __init__(self, endpoints: Mapping[str, ASGIApp], rest: ASGIApp) -> None:
        self._endpoints = {name: endpoint for path, endpoint in endpoints.items() for name in (path, f"{path}/")}
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" else None
        await (endpoint or self._rest)(scope, receive, send)
