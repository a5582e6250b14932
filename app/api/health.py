"""`/healthz` says that the process lives; `/readyz` says whether it can decide and serve, and names what it lacks.

What every call needs makes a gateway not ready: keys and routes, and Redis where nothing is admitted without it. What
is only useful does not: a pool without servers, or Redis under `admission.without_redis: local`. Those are away for all
gateways at once, and taking them all out of rotation would take fallbacks, other models and the local share along.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from fastapi import APIRouter
from fastapi.responses import JSONResponse

Check = Callable[[], Awaitable[str | None]]


def router(needed: Mapping[str, Check], useful: Mapping[str, Check]) -> APIRouter:
    """Each check returns None when well, else one sentence on what is wrong."""
    api = APIRouter(tags=["health"])

    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @api.get("/readyz")
    async def readyz() -> JSONResponse:
        """200 `ready`; 200 `degraded` while something useful is away; 503 `not ready` without what every call needs."""
        missing, away = await _wrong(needed), await _wrong(useful)
        status = "not ready" if missing else "degraded" if away else "ready"
        return JSONResponse({"status": status, "problems": missing | away}, status_code=503 if missing else 200)

    return api


async def _wrong(checks: Mapping[str, Check]) -> dict[str, str]:
    return {name: problem for name, check in checks.items() if (problem := await check()) is not None}
