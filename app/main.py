"""The HTTP face: one FastAPI application whose inference routes are plain ASGI, and the process that serves it."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
import uvloop
from aiohttp import web
from fastapi import FastAPI
from starlette.types import ASGIApp

from app.api import errors, files, health, models, training
from app.api.admin.router import router as admin_router
from app.api.fine_tuning import jobs as fine_tuning
from app.api.front import Front
from app.api.inference import Inference
from app.api.leaving import LeavingProtocol
from app.api.openapi import describe
from app.api.server import Server
from app.cache.minilm import MissingModel
from app.lifespan import Gateway, new_request_id, running
from app.observability.correlation import current_trace_id
from app.observability.logging import configure
from app.observability.metrics import Metrics
from app.settings import Settings
from app.storage.embedded_redis import EmbeddedRedisError
from app.types import Operation

PATHS = {
    "/v1/chat/completions": Operation.CHAT,
    "/v1/completions": Operation.COMPLETIONS,
    "/v1/embeddings": Operation.EMBEDDINGS,
}


def create_app(gateway: Gateway) -> Front:
    """The application of a running gateway."""
    return Front({path: _endpoint(gateway, path, operation) for path, operation in PATHS.items()}, _rest(gateway))


def _endpoint(gateway: Gateway, path: str, operation: Operation) -> ASGIApp:
    server = gateway.settings.server
    inference = Inference(
        operation,
        gateway.answer,
        new_id=new_request_id,
        metrics=gateway.metrics,
        max_body_bytes=server.max_body_bytes,
        body_timeout_seconds=server.body_timeout_seconds,
    )
    return gateway.tracing.endpoint(inference, path)


def _rest(gateway: Gateway) -> FastAPI:
    app = FastAPI(title="Tunegate", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.include_router(models.router(gateway.authenticator.principal, gateway.policy.current))
    app.include_router(health.router(gateway.needed, gateway.useful))
    if gateway.settings.admin_enabled:
        app.state.admin = gateway.admin
        app.include_router(admin_router)
    if gateway.settings.training.enabled:
        app.state.training = gateway.training
        for part in (files.uploads, files.router, fine_tuning.router, training.router, training.blobs):
            app.include_router(part)
    errors.install(app)
    describe(app, PATHS)
    return app


def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; running streams may finish within the grace time. Returns the exit code."""
    configure(settings.telemetry.log_format, settings.telemetry.log_level, trace_id=current_trace_id)
    try:
        with asyncio.Runner(loop_factory=_loop) as runner:
            runner.run(_serve(settings))
    except (EmbeddedRedisError, MissingModel) as exc:
        sys.stderr.write(f"tunegate: {exc}\n")
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


async def _serve(settings: Settings) -> None:
    async with running(settings) as gateway, _metrics(settings, gateway.metrics):
        server = Server(
            uvicorn.Config(
                create_app(gateway),
                host=settings.server.host,
                port=settings.server.port,
                http=LeavingProtocol,
                ws="none",
                proxy_headers=False,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=int(settings.server.shutdown_grace_seconds),
            )
        )
        _spare_the_collector()
        await server.serve()


def _spare_the_collector() -> None:
    """Keep the garbage collector from looking at what was made at the start: it was a third of a request's time.

    That heap (classes, schemas, routes) lives as long as the process, so it is set aside for good. What requests make
    is freed by its reference counts; the few cycles among it are looked for less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


@asynccontextmanager
async def _metrics(settings: Settings, metrics: Metrics) -> AsyncIterator[None]:
    """`/metrics` on an address of its own, away from the public one."""
    if settings.server.metrics_port == 0:
        yield
        return

    async def render(request: web.Request) -> web.Response:
        body, content_type = await metrics.scrape(request.headers.get("accept"))
        return web.Response(body=body, headers={"content-type": content_type})

    site = web.Application()
    site.router.add_get("/metrics", render)
    runner = web.AppRunner(site, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.server.metrics_host, settings.server.metrics_port).start()
        yield
    finally:
        await runner.cleanup()


def _loop() -> asyncio.AbstractEventLoop:
    return uvloop.new_event_loop()
