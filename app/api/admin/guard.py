"""Who may administer: whoever sends the admin secret. Closed by default, for the stores are reached through here only.

The secret is asked for before a byte of the body is read, and the body is bounded in size and time.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute

from app.api.admin.services import AdminServices
from app.api.body import with_body
from app.auth.api_keys import bearer
from app.errors import Unauthenticated

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
            return await handle(await with_body(request))

        return guarded
