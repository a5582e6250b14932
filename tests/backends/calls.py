"""Calls, targets and records for tests of the backends."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from app.errors import GatewayError
from app.interfaces import Bill, Meter
from app.types import CachePolicy, Call, Choice, Endpoint, Operation, Price, Route, Target

FREE = Price(0, 0)


def call(operation: Operation = Operation.CHAT, **fields: Any) -> Call:
    """A call with this body."""
    body = {"model": "support", "messages": [{"role": "user", "content": "Hi"}], **fields}
    encoded = json.dumps(body).encode()
    options = body.get("stream_options") or {}
    return Call(
        operation=operation,
        route=body["model"],
        body=encoded,
        fields=msgspec.json.decode(encoded, type=dict[str, msgspec.Raw]),
        stream=bool(body.get("stream")),
        include_usage=bool(options.get("include_usage")),
        max_tokens=None,
        choices=1,
        user=None,
        prompt_tokens_estimate=5,
    )


def target(upstream: str = "up", model: str = "gpt", *, is_pool: bool = False) -> Target:
    """A target without an adapter."""
    return Target(upstream, model, FREE, is_pool=is_pool)


def choice(*targets: Target) -> Choice:
    """A choice of these targets."""
    return Choice(Route("support", None, (), CachePolicy()), "main", targets)


def endpoint(url: str, **fields: Any) -> Endpoint:
    """An address of a provider with short waits."""
    waits = {
        "connect_timeout_seconds": 2.0,
        "first_byte_timeout_seconds": 5.0,
        "idle_timeout_seconds": 5.0,
        "total_timeout_seconds": 20.0,
    }
    return Endpoint(**{"upstream": "up", "base_url": url, "model": "gpt", "headers": {}, **waits, **fields})


@dataclass(slots=True)
class Noted:
    """A record that remembers what it was told."""

    targets: list[str] = field(default_factory=list)
    meter: Meter | None = None
    errors: list[GatewayError] = field(default_factory=list)
    first_bytes: int = 0
    settled: int = 0
    asked: int = 0
    pays: int = 10**9  # so many times it says yes

    def sent(self, target: Target) -> None:
        """A call went there."""
        self.targets.append(target.model)

    def shares(self, bill: Bill, *, joined: bool) -> None:
        """It is shared."""

    def first_byte(self) -> None:
        """An answer began."""
        self.first_bytes += 1

    def metered(self, target: Target, meter: Meter) -> None:
        """The meter that counts."""
        self.meter = meter

    def broke(self, error: GatewayError) -> None:
        """It broke off."""
        self.errors.append(error)

    async def affords(self) -> bool:
        """Whether its account can pay for more."""
        self.asked += 1
        return self.asked <= self.pays

    def settle(self) -> None:
        """It is over."""
        self.settled += 1


@dataclass(slots=True)
class Canned:
    """An upstream whose blocks are known; it raises `error` after them."""

    sent: list[bytes]
    error: GatewayError | None = None
    status: int = 200
    content_type: bytes = b"text/event-stream"
    endpoint: Endpoint = field(default_factory=lambda: endpoint("http://nowhere"))

    async def blocks(self) -> AsyncIterator[bytes]:
        """Those blocks."""
        for block in self.sent:
            yield block
        if self.error is not None:
            raise self.error
