"""Every refusal of the application in OpenAI's envelope, whatever found the fault: us, the router, or a validator.

Of what the caller sent, only the names of fields are said again, never values. A defect of ours is a 500 that names the
request and nothing of the inside; the log has the same name.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from app.errors import BodyTooLarge, GatewayError, Internal, InvalidRequest, MethodNotAllowed, NotFound

MAX_FIELDS_SAID = 5
MAX_FIELD_CHARACTERS = 100
_SAYS = {
    "missing": "is required",
    "extra_forbidden": "is not a field here; check its spelling or leave it out",
    "json_invalid": "The body is not valid JSON",
    "model_attributes_type": "expected a JSON object (and the header content-type: application/json)",
    "model_type": "expected a JSON object",
    "dict_type": "expected a JSON object",
}
_CODES = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}
_logger = structlog.get_logger()


def install(app: FastAPI) -> None:
    """Let every non-2xx of this application be OpenAI's envelope, with the request's name in `x-request-id`."""

    async def refused(request: Request, exc: Exception) -> Response:
        return respond(request.scope, exc if isinstance(exc, GatewayError) else Internal("The server failed."))

    async def invalid(request: Request, exc: Exception) -> Response:
        errors = exc.errors() if isinstance(exc, RequestValidationError) else []
        return respond(request.scope, invalid_request(errors))

    async def routed(request: Request, exc: Exception) -> Response:
        status = exc.status_code if isinstance(exc, HTTPException) else 500
        return respond(request.scope, _routing(app, request, status))

    app.add_exception_handler(GatewayError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, routed)
    app.add_exception_handler(Exception, failed)


async def failed(request: Request, exc: Exception) -> Response:
    """What the caller is told of a defect of ours; what follows raises it again, so that the log has its places."""
    return respond(request.scope, failure(exc, request_id(request.scope)))


def failure(exc: Exception, name: str) -> Internal:
    """The error for a defect of ours in the request of this name; notes it in the log."""
    _logger.error("request_failed", request_id=name, error=type(exc).__name__)
    return Internal(f"The server failed on this request ({name}); its log says why.")


def respond(scope: MutableMapping[str, Any], error: GatewayError) -> Response:
    """The envelope of this error as a response."""
    response = Response(error.body(), error.status, media_type="application/json")
    for name, value in (*error.headers, (b"x-request-id", request_id(scope).encode())):
        response.raw_headers.append((name, value))
    return response


def request_id(scope: MutableMapping[str, Any]) -> str:
    """The name that the request has, or gets now."""
    name: str = scope.setdefault("request_id", f"req_{secrets.token_hex(16)}")
    return name


def invalid_request(errors: Sequence[Mapping[str, Any]]) -> InvalidRequest:
    """One refusal for what a validator found; `param` is the first field."""
    first = errors[0] if errors else {"type": "", "loc": ()}
    said = [_sentence(error) for error in errors[:MAX_FIELDS_SAID]]
    if len(errors) > MAX_FIELDS_SAID:
        said.append(f"and {len(errors) - MAX_FIELDS_SAID} more")
    code = _CODES.get(str(first["type"]))
    message = "; ".join(said) or "The request is not valid"
    return InvalidRequest(f"{message}.", param=field_of(first["loc"]) or None, code=code)


def field_of(place: Sequence[str | int]) -> str:
    """`("body", "variants", 0, "weight")` as `variants[0].weight`; a place in the bytes of a body is no field."""
    parts = place[1:] if place and place[0] in ("body", "query", "path", "header") else place
    if all(isinstance(part, int) for part in parts):
        return ""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
    return "".join(character if character.isprintable() else "?" for character in name[:MAX_FIELD_CHARACTERS])


def _sentence(error: Mapping[str, Any]) -> str:
    field = field_of(error["loc"])
    says = _SAYS.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")
    return f"{field}: {says}" if field else says


def _routing(app: FastAPI, request: Request, status: int) -> GatewayError:
    if status == 404:
        return NotFound("There is no such path. The API is under /v1; GET /openapi.json lists it.")
    if status == 405:
        allow = ", ".join(sorted(_methods(app, request)))
        return MethodNotAllowed(f"This path takes {allow}.", headers=((b"allow", allow.encode()),))
    if status == 413:
        return BodyTooLarge("The body is larger than this path takes.")
    return InvalidRequest("The request cannot be read.") if status < 500 else Internal("The server failed.")


def _methods(app: FastAPI, request: Request) -> set[str]:
    """What the path takes, over all of its routes; the router itself names the first one's only."""
    methods: set[str] = set()
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in app.router.routes):
            methods.add(method)
    return methods
