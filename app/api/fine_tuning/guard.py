"""Who calls, proved before a byte of the body is read: a tenant by its key, a trainer by the installation's secret."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, ClassVar

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute

from app.api.body import with_body
from app.api.fine_tuning.services import TrainingServices
from app.auth.api_keys import bearer
from app.errors import Forbidden, Unauthenticated
from app.types import Operation, Principal

_CHALLENGE = ((b"www-authenticate", b"Bearer"),)


def services(request: Request) -> TrainingServices:
    """The services of this application."""
    found: TrainingServices = request.app.state.training
    return found


def _principal(request: Request) -> Principal:
    found: Principal = request.scope["principal"]
    return found


Services = Annotated[TrainingServices, Depends(services)]
Caller = Annotated[Principal, Depends(_principal)]


class TenantRoute(APIRoute):
    """A route for tenants' keys that hold `operation`; the body is read here unless the endpoint streams it."""

    operation: ClassVar[Operation]
    streams: ClassVar[bool] = False

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The usual handler behind the guard."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            principal = await services(request).authenticate(dict(request.scope["headers"]))
            if self.operation not in principal.operations:
                raise Forbidden(f"This key may not use {self.operation.value}.")
            request.scope["principal"] = principal
            return await handle(request if self.streams else await with_body(request))

        return guarded


class FilesRoute(TenantRoute):
    """A route of files."""

    operation = Operation.FILES


class UploadRoute(FilesRoute):
    """A route that streams a file in."""

    streams = True


class TuningRoute(TenantRoute):
    """A route of fine-tuning."""

    operation = Operation.FINE_TUNING


class TrainerRoute(APIRoute):
    """A route of the training API."""

    streams: ClassVar[bool] = False

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The usual handler behind the guard."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            check_trainer(request)
            return await handle(request if self.streams else await with_body(request))

        return guarded


class BlobRoute(TrainerRoute):
    """A route that streams a blob in."""

    streams = True


def check_trainer(request: Request) -> None:
    """Raise Unauthenticated for everybody but a holder of the trainer secret, tenants and administrators too."""
    sent = bearer(dict(request.scope["headers"])) or b""
    expected = services(request).trainer_secret.encode()
    if not expected or not hmac.compare_digest(hashlib.sha256(sent).digest(), hashlib.sha256(expected).digest()):
        raise Unauthenticated(
            "The trainer secret is missing or wrong. Send it as `Authorization: Bearer …`; it is"
            " TUNEGATE_TRAINER_SECRET, or in the file trainer.key of the gateway's data folder.",
            headers=_CHALLENGE,
        )
