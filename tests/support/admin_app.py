"""The admin API over a real database, in process: for tests that need its decisions and not a socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import httpx2
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api import errors
from app.api.admin.router import router
from app.api.admin.services import AdminServices
from app.cache.forget import Selection
from app.cache.promises import Promises
from app.routing.prices import PriceList
from app.storage.redis import RedisStore
from app.types import Price

ADMIN_KEY = "an-admin-secret-of-the-tests"


async def nothing() -> None:
    """Tells nobody."""


async def nothing_kept(_: Selection) -> int:
    """There is no cache."""
    return 0


def services(engine: AsyncEngine, folder: Path, **fields: Any) -> AdminServices:
    """Services with one pool (`main`) and one provider (`openai`), priced."""
    given: dict[str, Any] = {
        "admin_key": ADMIN_KEY,
        "engine": engine,
        "artifacts": folder,
        "base_models": {"main": "base", "unpriced": "base"},
        "providers": frozenset({"openai"}),
        "prices": PriceList({"main/*": Price(1, 1), "openai/gpt-4o": Price(1, 1)}),
        "changed": nothing,
        "flush": nothing,
        "forget_answers": nothing_kept,
        "promises": Promises(cast("RedisStore", None), lambda _: ()),
    }
    return AdminServices(**{**given, **fields})


def application(admin: AdminServices) -> FastAPI:
    """An application with the admin API alone."""
    app = FastAPI(redirect_slashes=False)
    app.state.admin = admin
    app.include_router(router)
    errors.install(app)
    return app


def client(app: FastAPI, secret: str | None = ADMIN_KEY) -> httpx2.AsyncClient:
    """A client whose paths begin behind /admin/v1."""
    headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://gateway/admin/v1", headers=headers)
