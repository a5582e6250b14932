"""An embedding service over a real socket: batched, checked, and never trusted with more than texts."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from app.cache.cache import AnswerCache, CacheConfig
from app.cache.remote import EmbeddingService, RemoteEmbedder
from app.interfaces import EmbedderFailed
from app.storage.redis import RedisStore
from app.types import CacheStatus
from tests.cache.calls import make_call
from tests.cache.test_cache import found, kept
from tests.support.processes import free_port

DIMENSIONS = 8
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def vector(text: str) -> list[float]:
    """A vector of a text that is not of length 1."""
    return [2.0 + 0.05 * (len(text) % 7), 1.0, *[0.5] * (DIMENSIONS - 2)]


class Service:
    """A small /v1/embeddings that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[str | None] = []
        self.reply: Handler | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer as OpenAI does: base64 when it is asked for, rows in any order."""
        body = await request.json()
        self.asked.append(body)
        self.headers.append(request.headers.get("authorization"))
        if self.reply is not None:
            return await self.reply(request)
        rows = [
            {"index": row, "embedding": base64.b64encode(np.array(vector(text), "<f4").tobytes()).decode()}
            for row, text in enumerate(body["input"])
        ]
        return web.json_response({"object": "list", "data": rows[::-1]})


@pytest.fixture
async def service() -> AsyncIterator[tuple[Service, str]]:
    """The service and its address."""
    made, port = Service(), free_port()
    app = web.Application()
    app.router.add_post("/v1/embeddings", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield made, f"http://127.0.0.1:{port}"
    await runner.cleanup()


def config(url: str, **fields: Any) -> EmbeddingService:
    """Settings for it."""
    return EmbeddingService(**{"base_url": url, "model": "m", "dimensions": DIMENSIONS, "api_key": "sk-x", **fields})


async def test_concurrent_callers_go_out_together(service: tuple[Service, str]) -> None:
    """Twenty callers, one request; each gets its own unit vectors, in order, whatever the order of the reply."""
    fake, url = service
    async with RemoteEmbedder.open(config(url)) as embedder:
        texts = ["x" * number for number in range(20)]
        rows = await asyncio.gather(*(embedder.embed([text, "both"]) for text in texts))
        assert (await embedder.embed([])).shape == (0, DIMENSIONS)
    assert len(fake.asked) == 1
    assert fake.headers == ["Bearer sk-x"]
    for text, got in zip(texts, rows, strict=True):
        for row, of in zip(got, (text, "both"), strict=True):
            expected = np.array(vector(of), np.float32)
            np.testing.assert_allclose(row, expected / np.linalg.norm(expected), rtol=1e-5)


async def test_many_texts_are_cut_into_requests(service: tuple[Service, str]) -> None:
    """Callers with more texts than one request may hold share several."""
    fake, url = service
    async with RemoteEmbedder.open(config(url + "/v1/", api_key=None)) as embedder:
        rows = await asyncio.gather(*(embedder.embed(["y"] * 50) for _ in range(5)), embedder.embed(["z"] * 300))
    assert [len(row) for row in rows] == [50] * 5 + [300]
    assert sorted(len(body["input"]) for body in fake.asked) == [50, 100, 100, 300]
    assert fake.headers == [None] * 4


async def test_lists_of_numbers_are_read_too(service: tuple[Service, str]) -> None:
    """A service that knows no base64."""
    fake, url = service

    async def plain(_: web.Request) -> web.StreamResponse:
        return web.json_response({"data": [{"index": 0, "embedding": vector("x")}]})

    fake.reply = plain
    async with RemoteEmbedder.open(config(url)) as embedder:
        assert np.linalg.norm((await embedder.embed(["x"]))[0]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, "{}"),
        (302, "{}"),
        (200, "no json"),
        (200, '{"data":[]}'),
        (200, '{"data":[{"index":1,"embedding":[1,1,1,1,1,1,1,1]}]}'),
        (200, '{"data":[{"index":0,"embedding":[1,1]}]}'),
        (200, '{"data":[{"index":0,"embedding":[0,0,0,0,0,0,0,0]}]}'),
        (200, '{"data":[{"index":0,"embedding":"%%%"}]}'),
    ],
)
async def test_what_it_must_not_say_is_a_failure(service: tuple[Service, str], status: int, body: str) -> None:
    """Errors, redirects, other shapes and vectors without direction fail, without the text in the message."""
    fake, url = service

    async def wrong(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=body, headers={"location": url} if status == 302 else {})

    fake.reply = wrong
    async with RemoteEmbedder.open(config(url)) as embedder:
        with pytest.raises(EmbedderFailed) as caught:
            await embedder.embed(["secret words"])
        fake.reply = None
        assert len(await embedder.embed(["works again"])) == 1
    assert "secret" not in str(caught.value)


async def test_a_service_that_is_away_or_slow_is_a_failure(service: tuple[Service, str]) -> None:
    """A refused connection and an answer that does not come in time."""
    fake, url = service

    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    fake.reply = never
    for address in (url, f"http://127.0.0.1:{free_port()}"):
        async with RemoteEmbedder.open(config(address, timeout_seconds=0.1)) as embedder:
            with pytest.raises(EmbedderFailed):
                await embedder.embed(["x"])


async def test_the_cache_works_with_it(service: tuple[Service, str], store: RedisStore) -> None:
    """A paraphrase is found with the service's vectors; with the service gone, exact answers still are."""
    fake, url = service
    async with RemoteEmbedder.open(config(url)) as embedder:
        cache = AnswerCache(store, embedder, CacheConfig())
        await kept(cache, make_call("How do I pay?"))
        near = await found(cache, make_call("How can I pay?"))
        assert near is not None
        assert near.status is CacheStatus.SEMANTIC

        async def broken(_: web.Request) -> web.StreamResponse:
            return web.Response(status=503)

        fake.reply = broken
        assert await found(cache, make_call("How should I pay?")) is None
        exact = await found(cache, make_call("How do I pay?"))
        assert exact is not None
        await cache.drain()
