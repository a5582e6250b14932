"""The end of a gateway process by a signal: answers end or are broken off, and what they used is written down."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tests.support.gateway import PRICE, Gateway, gateway
from tests.support.processes import free_port
from tests.support.provider import Peer, Provider, Received, events, fake_provider

TOKENS = 4000


@dataclass(slots=True)
class Running:
    """A gateway in front of a provider that answers when it is told to, and an answer under way."""

    gateway: Gateway
    provider: Provider
    answer: aiohttp.ClientResponse
    go_on: asyncio.Event
    folder: Path

    async def end(self, number: signal.Signals) -> int:
        """Send a signal; returns how the process ended."""
        self.gateway.process.send_signal(number)
        return await asyncio.to_thread(self.gateway.process.wait, 30)

    def ledger(self) -> list[tuple[str, int]]:
        """Outcome and completion tokens of every entry in SQL, read when the process is gone."""
        with closing(sqlite3.connect(self.folder / "data" / "tunegate.sqlite3")) as database:
            return list(database.execute("SELECT outcome, completion_tokens FROM ledger"))


@asynccontextmanager
async def _answering(folder: Path, grace_seconds: int) -> AsyncIterator[Running]:
    go_on = asyncio.Event()

    async def slowly(request: Received, peer: Peer) -> None:
        blocks = events("m", include_usage="include_usage" in str(request.json.get("stream_options")))
        await peer.head(200, "text/event-stream")
        await peer.chunk(blocks[0] + blocks[1])
        await go_on.wait()
        for block in blocks[2:]:
            await peer.chunk(block)
        await peer.chunk(b"")

    port = free_port()
    async with fake_provider(slowly) as provider, aiohttp.ClientSession() as session:
        settings = {
            "server": {"port": port, "metrics_port": 0, "shutdown_grace_seconds": grace_seconds},
            "cache": {"semantic": False},
            "providers": [{"name": "fake", "base_url": provider.url}],
            "prices": {"models": {"fake/*": PRICE}},
        }
        with ExitStack() as stack:
            running = await asyncio.to_thread(lambda: stack.enter_context(gateway(folder, settings, port=port)))
            key = await asyncio.to_thread(_prepared, running)
            body = {"model": "m", "stream": True, "max_tokens": TOKENS, "messages": [{"role": "user", "content": "hi"}]}
            headers = {"authorization": f"Bearer {key}"}
            async with session.post(f"{running.url}/v1/chat/completions", json=body, headers=headers) as answer:
                assert answer.status == 200
                assert await answer.content.readany()
                yield Running(running, provider, answer, go_on, folder)
            go_on.set()


def _prepared(running: Gateway) -> str:
    running.call("POST", "/tenants", {"id": "acme"})
    target = {"provider": "fake", "model": "m"}
    running.call("PUT", "/routes/m", {"variants": [{"name": "main", "weight": 1, "target": target}]})
    return running.key("acme")


@pytest.fixture(params=[signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def number(request: pytest.FixtureRequest) -> signal.Signals:
    """What orchestrators and terminals send."""
    sent: signal.Signals = request.param
    return sent


async def test_an_answer_under_way_ends_and_is_charged(number: signal.Signals, tmp_path: Path) -> None:
    """The caller gets all of it; its entry is in SQL when the process has ended, and that well."""
    async with _answering(tmp_path, 30) as running:
        ended = asyncio.create_task(running.end(number))
        await asyncio.sleep(0.3)
        assert not ended.done(), "it waits for the answer"
        running.go_on.set()
        assert b"[DONE]" in await running.answer.content.read()
        assert await ended == 0
        assert running.ledger() == [("ok", 3)]


async def test_what_is_broken_off_at_the_end_of_grace_is_charged_for_what_was_made(
    number: signal.Signals, tmp_path: Path
) -> None:
    """Not lost, and not at its estimate: the words that the caller got."""
    async with _answering(tmp_path, 1) as running:
        assert await running.end(number) == 0
        ((outcome, tokens),) = running.ledger()
        assert outcome != "lost"
        assert 0 < tokens < TOKENS // 100
