"""The engine as an ASGI application; its lifespan opens the engine and registers the adapters named at the start."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError

from app.engine import chat_api, completion_api, failures, operations_api
from app.engine.adapters import AdapterRegistry
from app.engine.engine import open_engine
from app.engine.faults import FaultBoard
from app.engine.options import EngineOptions
from app.engine.service import Service


def create_app(options: EngineOptions, *, on_death: Callable[[], None] = lambda: None) -> FastAPI:
    """Build the application; nothing is loaded before its lifespan starts. `on_death`: the engine loop has failed."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        faults = FaultBoard(options.latency, options.faults)
        async with open_engine(options, faults, on_death) as engine:
            adapters = AdapterRegistry(engine)
            for module in options.lora_modules:
                await adapters.load(module.name, module.path)
            app.state.service = Service(engine, adapters, faults)
            yield

    app = FastAPI(title="Tunegate reference engine", lifespan=lifespan, redirect_slashes=False)
    failures.install(app)
    app.include_router(operations_api.router, dependencies=[Depends(_json_only)])
    app.include_router(chat_api.router, dependencies=[Depends(_json_only)])
    app.include_router(completion_api.router, dependencies=[Depends(_json_only)])
    if options.runtime_lora_updating:
        app.include_router(operations_api.runtime_lora_router, dependencies=[Depends(_json_only)])
    return app


async def _json_only(request: Request) -> None:
    """Refuse a body that is not declared as JSON, in vLLM's words."""
    kind = request.headers.get("content-type", "").lower().split(";", maxsplit=1)[0]
    if request.method == "POST" and kind != "application/json":
        raise RequestValidationError(["Unsupported Media Type: Only 'application/json' is allowed"])
