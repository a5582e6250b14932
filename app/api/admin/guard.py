"""Who may administer: whoever sends the admin secret. Closed by default, for the stores are reached through here only.

The secret is asked for before a byte of the body is read, and the body is bounded in size and time.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import Message

from app.api.admin.services import AdminServices
from app.auth.api_keys import bearer
from app.errors import BodyTooLarge, InvalidRequest, Unauthenticated

MAX_BODY_BYTES = 1024 * 1024
BODY_SECONDS = 30.0
_CHALLENGE = ((b"www-authenticate", b"Bearer"),)


def authorized(request: Request) -> AdminServices:
    """The services, for a caller with the admin secret; raises Unauthenticated for everybody else, tenants too."""
    services: AdminServices = request.app.state.admin
    sent = bearer(dict(request.scope["headers"])) or b""
    expected = services.admin_key.encode()
    if not expected or not hmac.compare_digest(hashlib.sha256(sent).digest(), hashlib.sha256(expected).digest()):
        raise Unauthenticated(
            "The admin secret is missing or wrong. Send it as `Authorization: Bearer …`; it is TUNEGATE_ADMIN_KEY, or"
            " in the file admin.key of the data folder.",
            headers=_CHALLENGE,
        )
    return services


Admin = Annotated[AdminServices, Depends(authorized)]


class AdminRoute(APIRoute):
    """A route of the admin API: `APIRouter(route_class=AdminRoute)`, the framework's place for work before the body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The usual handler behind the guard."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            authorized(request)
            return await handle(await _with_body(request))

        return guarded


async def _with_body(request: Request) -> Request:
    """The request with its whole body read; raises BodyTooLarge or InvalidRequest."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise BodyTooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes.")
                parts.append(part)
    except TimeoutError:
        raise InvalidRequest("The body did not arrive in time.", code="request_timeout") from None
    except ClientDisconnect:
        raise InvalidRequest("The body did not arrive whole.") from None
    body = b"".join(parts)

    async def read() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(request.scope, read)
