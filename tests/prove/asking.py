"""One call as an app makes it, and what is to be known of its answer."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass

import aiohttp

from tests.prove.judge import Answer
from tests.prove.markers import body


@dataclass(slots=True)
class Pace:
    """How many calls all callers together begin in a second; 0: as fast as they are answered."""

    per_second: float = 0.0
    _next: float = 0.0

    async def turn(self) -> None:
        """Return when the next call may begin."""
        if self.per_second:
            now = time.monotonic()
            self._next = max(now, self._next) + 1 / self.per_second
            await asyncio.sleep(self._next - now)


async def ask(session: aiohttp.ClientSession, url: str, key: str, route: str, *, stream: bool) -> Answer:
    """One try."""
    more = {"stream": True} if stream else {}
    headers = {"authorization": f"Bearer {key}"}
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body(route, **more), headers=headers) as answer:
            text = await answer.text()
            if answer.status != 200:
                return Answer(answer.status, json.loads(text)["error"]["message"])
            status, said = _streamed(text) if stream else (200, json.loads(text)["choices"][0]["message"]["content"])
            named = answer.headers.get("x-tunegate-adapter", "")
            return Answer(status, said, named, answer.headers.get("x-request-id", ""))
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as exc:
        return Answer(0, type(exc).__name__)


def _streamed(text: str) -> tuple[int, str]:
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    broken = [chunk["error"]["message"] for chunk in chunks if "error" in chunk]
    if broken or "data: [DONE]" not in text:
        return 0, "stream: " + (broken[0] if broken else "no end")
    return 200, "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])
