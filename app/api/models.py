"""`GET /v1/models` and `/v1/models/{id}`: the routes that the caller may name, nothing about anybody else's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from app.errors import NotFound
from app.interfaces import Policy
from app.types import Principal, Route

Authenticate = Callable[[Mapping[bytes, bytes]], Awaitable[Principal]]


def router(authenticate: Authenticate, policy: Callable[[], Policy]) -> APIRouter:
    """The two listings; ids may hold slashes and colons."""
    api = APIRouter(tags=["models"])

    async def visible(request: Request) -> dict[str, Route]:
        principal = await authenticate(dict(request.scope["headers"]))
        routes = policy().routes(principal.tenant_id)
        return {route.name: route for route in routes if principal.routes is None or route.name in principal.routes}

    @api.get("/v1/models")
    async def models(request: Request) -> JSONResponse:
        """Every model that this key may name."""
        routes = await visible(request)
        return JSONResponse({"object": "list", "data": [_card(route) for route in routes.values() if route.enabled]})

    @api.get("/v1/models/{model:path}")
    async def model(request: Request, model: str) -> JSONResponse:
        """One model; the same 404 for one that is absent and one that is another tenant's."""
        route = (await visible(request)).get(model)
        if route is None:
            raise NotFound("The model does not exist or you do not have access to it.", param="model")
        return JSONResponse(_card(route))

    return api


def _card(route: Route) -> dict[str, Any]:
    owner = "tunegate" if route.tenant_id is None else route.tenant_id
    return {"id": route.name, "object": "model", "created": route.created_at, "owned_by": owner}
