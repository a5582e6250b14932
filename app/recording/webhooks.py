"""Sends the webhook outbox: signed as Standard Webhooks (and so as OpenAI's), again and again until it is taken.

An endpoint's secret is derived from one key of the installation and the endpoint's id, so the database holds none. A
receiver has taken an event when it answers 2xx; anything else is tried again on a schedule of hours. An answer's body
is never read. The address is judged at every delivery (`egress`), not only when it was given.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import Callable

import aiohttp
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.recording.egress import check_url
from app.storage import outbox
from app.storage.outbox import Delivery, Endpoint, Outcome

POLL_SECONDS = 1.0
_logger = structlog.get_logger()


def endpoint_secret(key: str, endpoint_id: str) -> str:
    """What a receiver verifies with: `whsec_` and 256 bits in base64."""
    digest = hmac.new(key.encode(), b"tunegate-webhook\x00" + endpoint_id.encode(), hashlib.sha256).digest()
    return "whsec_" + base64.b64encode(digest).decode()


def sign(secret: str, event_id: str, timestamp: int, body: str) -> str:
    """The header `webhook-signature`: version 1, HMAC-SHA256 over id, instant and body."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = f"{event_id}.{timestamp}.{body}".encode()
    return "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()


class Deliverer:
    """One per gateway process; any number may run."""

    def __init__(
        self,
        engine: AsyncEngine,
        client: aiohttp.ClientSession,
        key: str,
        *,
        allow_private: bool = False,
        clock: Callable[[], float] = time.time,
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._client = client
        self._key = key
        self._allow_private = allow_private
        self._clock = clock
        self._count = count

    def secret(self, endpoint: Endpoint) -> str:
        """The secret of an endpoint, for its owner."""
        return endpoint_secret(self._key, endpoint.id)

    async def run(self) -> None:
        """Deliver for ever; an outage of SQL is waited out."""
        while True:
            try:
                while await self.deliver_due():
                    pass
            except (SQLAlchemyError, OSError) as exc:
                _logger.warning("webhooks_wait", error=type(exc).__name__)
            await asyncio.sleep(POLL_SECONDS)

    async def deliver_due(self) -> int:
        """Send what is due now, side by side; returns how many were tried."""
        async with self._engine.begin() as connection:
            due = await outbox.take_due(connection, now=self._clock())
        await asyncio.gather(*(self._deliver(delivery) for delivery in due))
        return len(due)

    async def _deliver(self, delivery: Delivery) -> None:
        problem = await self._send(delivery)
        async with self._engine.begin() as connection:
            outcome = Outcome.DELIVERED
            if problem is None:
                await outbox.delivered(connection, delivery, now=self._clock())
            else:
                outcome = await outbox.failed(connection, delivery, problem, now=self._clock())
        self._count(outcome)
        if problem is None:
            return
        _logger.warning(
            "webhook_failed",
            endpoint=delivery.endpoint.id,
            tenant=delivery.endpoint.tenant_id,
            webhook=delivery.event_id,
            attempt=delivery.attempt,
            reason=problem,
            endpoint_switched_off=outcome is Outcome.SWITCHED_OFF,
            given_up=outcome is Outcome.GIVEN_UP,
        )

    async def _send(self, delivery: Delivery) -> str | None:
        """None when it was taken, else why not."""
        problem = check_url(delivery.endpoint.url, allow_private=self._allow_private)
        if problem is not None:
            return problem
        now = int(self._clock())
        headers = {
            "content-type": "application/json",
            "user-agent": "tunegate-webhooks",
            "webhook-id": delivery.event_id,
            "webhook-timestamp": str(now),
            "webhook-signature": sign(self.secret(delivery.endpoint), delivery.event_id, now, delivery.body),
        }
        try:
            async with self._client.post(
                delivery.endpoint.url, data=delivery.body.encode(), headers=headers, allow_redirects=False
            ) as answer:
                return None if 200 <= answer.status < 300 else f"status {answer.status}"
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            return type(exc).__name__
