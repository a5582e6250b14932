"""`/healthz` says that the process lives; `/readyz` says whether it can decide and serve, and names what it lacks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from fastapi import APIRouter
from fastapi.responses import JSONResponse

Check = Callable[[], Awaitable[str | None]]


def router(checks: Mapping[str, Check]) -> APIRouter:
    """Each check returns None when well, else one sentence on what is wrong."""
    api = APIRouter(tags=["health"])

    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @api.get("/readyz")
    async def readyz() -> JSONResponse:
        """Every part answers; 503 with the parts that do not."""
        wrong = {name: problem for name, check in checks.items() if (problem := await check()) is not None}
        status = "ready" if not wrong else "not ready"
        return JSONResponse({"status": status, "problems": wrong}, status_code=200 if not wrong else 503)

    return api
