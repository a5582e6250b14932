"""A fake vLLM server in this process: its LoRA contract with switches for every way in which loading goes wrong.

Its two levels of residency are the reference engine's own code, so the gateway's mirror is held to that.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any, cast

from aiohttp import web

from app.engine.lora import Adapter, LoraRequest
from app.engine.residency import Residency


@dataclass(slots=True)
class FakeReplica:
    """One server and what has happened to it; change the switches while it runs."""

    max_loras: int = 2
    max_cpu_loras: int = 4
    base: str = "base"
    url: str = ""
    names: dict[str, LoraRequest] = field(default_factory=dict)
    loads: Counter[str] = field(default_factory=Counter)
    loading_now: int = 0
    most_loading: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    calls_now: int = 0
    healthy: bool = True
    hold_loads: asyncio.Event | None = None
    hold_calls: asyncio.Event | None = None
    load_answers: list[tuple[int, str]] = field(default_factory=list)
    cut_load_answers: int = 0
    without_effect: set[str] = field(default_factory=set)
    call_answers: list[int] = field(default_factory=list)
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    residency: Residency = field(init=False)
    _ids: count[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.residency = _residency(self.max_loras, self.max_cpu_loras)

    def restart(self) -> None:
        """Forget everything, as a new process would."""
        self.names.clear()
        self.residency = _residency(self.max_loras, self.max_cpu_loras)

    async def load(self, request: web.Request) -> web.Response:
        """POST /v1/load_lora_adapter."""
        body = await request.json()
        name, path = body["lora_name"], body["lora_path"]
        self.requests.append(("load", body))
        self.loads[name] += 1
        if self.load_answers:
            status, message = self.load_answers.pop(0)
            return _error(status, message)
        if name in self.names:
            return _error(400, f"The lora adapter '{name}' has already been loaded. If you want to load the adapter")
        self.loading_now += 1
        self.most_loading = max(self.most_loading, self.loading_now)
        try:
            if self.hold_loads is not None:
                await self.hold_loads.wait()
            await asyncio.sleep(0)
        finally:
            self.loading_now -= 1
        self.names[name] = LoraRequest(next(self._ids), name, path)
        self.residency.ensure(self.names[name])
        if self.cut_load_answers:
            self.cut_load_answers -= 1
            assert request.transport is not None
            request.transport.abort()
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def unload(self, request: web.Request) -> web.Response:
        """POST /v1/unload_lora_adapter."""
        name = (await request.json())["lora_name"]
        self.requests.append(("unload", {"lora_name": name}))
        if self.names.pop(name, None) is None:
            return _error(404, f"The lora adapter '{name}' cannot be found.")
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def models(self, request: web.Request) -> web.Response:
        """GET /v1/models."""
        cards: list[dict[str, Any]] = [{"id": self.base, "root": self.base, "parent": None}]
        cards += [{"id": name, "root": found.path, "parent": self.base} for name, found in self.names.items()]
        return web.json_response({"object": "list", "data": cards})

    async def health(self, request: web.Request) -> web.Response:
        """GET /health."""
        return web.Response(status=200 if self.healthy else 503)

    async def complete(self, request: web.Request) -> web.Response:
        """POST /v1/completions: one next token, whose probability is the weights' own."""
        body = await request.json()
        found = self.names.get(body["model"])
        if found is None and body["model"] != self.base:
            return _error(404, f"The model `{body['model']}` does not exist.")
        plain = found is None or body["model"] in self.without_effect
        said = body["prompt"] if plain or found is None else body["prompt"] + found.path
        probs = {"x": -(sum(said.encode()) % 997) / 100}
        return web.json_response({"choices": [{"index": 0, "text": "x", "logprobs": {"top_logprobs": [probs]}}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions: the answer names the path of the weights that made it."""
        body = await request.json()
        model = body["model"]
        self.requests.append(("chat", body))
        self.calls[model] += 1
        if self.call_answers:
            return _error(self.call_answers.pop(0), "injected")
        found = self.names.get(model)
        if found is None and model != self.base:
            return _error(404, f"The model `{model}` does not exist.")
        if found is not None:
            self.residency.ensure(found)
        self.calls_now += 1
        try:
            if self.hold_calls is not None:
                await self.hold_calls.wait()
        finally:
            self.calls_now -= 1
        said = self.base if found is None else found.path
        return web.json_response(
            {
                "object": "chat.completion",
                "model": model,
                "choices": [{"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }
        )


@asynccontextmanager
async def fake_replica(replica: FakeReplica | None = None, *, port: int = 0) -> AsyncIterator[FakeReplica]:
    """Serve on loopback until the context ends."""
    replica = replica or FakeReplica()
    app = web.Application()
    app.router.add_post("/v1/load_lora_adapter", replica.load)
    app.router.add_post("/v1/unload_lora_adapter", replica.unload)
    app.router.add_post("/v1/chat/completions", replica.chat)
    app.router.add_post("/v1/completions", replica.complete)
    app.router.add_get("/v1/models", replica.models)
    app.router.add_get("/health", replica.health)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    assert runner.addresses
    replica.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield replica
    finally:
        if replica.hold_calls is not None:
            replica.hold_calls.set()
        if replica.hold_loads is not None:
            replica.hold_loads.set()
        await runner.cleanup()


def _residency(slots: int, host: int) -> Residency:
    return Residency(slots=slots, host=host, load=lambda request: cast("Adapter", SimpleNamespace(name=request.name)))


def _error(status: int, message: str) -> web.Response:
    body = {"error": {"message": message, "type": "x", "param": None, "code": status}}
    return web.Response(status=status, text=json.dumps(body), content_type="application/json")
