"""What the HTTP handlers share, and the way every completion goes through the injected faults."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from typing import Any, cast

from fastapi import Request
from starlette.responses import JSONResponse, Response

from app.engine.adapters import AdapterRegistry
from app.engine.engine import Engine
from app.engine.errors import EngineDead, RequestError
from app.engine.faults import FaultBoard
from app.engine.responses import CutResponse, EventStream, unless_gone

_CLIENT_GONE = 499


@dataclass(frozen=True, slots=True)
class Service:
    """The open engine with its registry and its injection."""

    engine: Engine
    adapters: AdapterRegistry
    faults: FaultBoard


def service_of(request: Request) -> Service:
    """The service the application was opened with."""
    return cast("Service", request.app.state.service)


async def before_completion(service: Service, request: Request) -> None:
    """Let an injected hang or error strike, and refuse when the engine is dead."""
    if service.faults.take_hang():
        await unless_gone(request.receive, asyncio.Event().wait())
        raise RequestError("client gone", status=_CLIENT_GONE)
    status = service.faults.take_error()
    if status is not None:
        raise RequestError("injected failure", status=status, kind="InternalServerError")
    if service.engine.core.dead:
        raise EngineDead


def streamed(service: Service, events: AsyncGenerator[bytes, None]) -> Response:
    """Stream events, cut where the injection says so."""
    return EventStream(events, drop_after=service.faults.take_drop())


async def whole(service: Service, request: Request, work: Coroutine[Any, Any, dict[str, Any]]) -> Response:
    """Answer with a JSON object once it is complete, unless the client has left by then."""
    drop = service.faults.take_drop()
    body = await unless_gone(request.receive, work)
    if body is None:
        return Response(status_code=_CLIENT_GONE)
    return JSONResponse(body) if drop is None else CutResponse(JSONResponse(body).body, media_type="application/json")
