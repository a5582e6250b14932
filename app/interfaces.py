"""The contracts between stages.

A Protocol stands here only where a second implementation, or an import that the layers forbid, earns it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.errors import GatewayError
from app.types import (
    AdapterVersion,
    CachedAnswer,
    CacheStatus,
    Call,
    Choice,
    ColdStart,
    Endpoint,
    KeyRecord,
    LedgerEntry,
    Principal,
    RateLimitState,
    Route,
    Target,
    Usage,
)


class Policy(Protocol):
    """The last known truth from SQL, in memory: every lookup is a dict access and never waits."""

    def key(self, digest: bytes) -> KeyRecord | None:
        """The key whose secret has this SHA-256 digest (32 bytes)."""
        ...

    def route(self, tenant_id: str, name: str) -> Route | None:
        """The tenant's own route of that name, else the shared one."""
        ...

    def routes(self, tenant_id: str) -> Sequence[Route]:
        """Every route the tenant can name, sorted by name."""
        ...

    def adapter(self, tenant_id: str, name: str, alias: str) -> AdapterVersion | None:
        """The version that the tenant's alias points at."""
        ...

    def previous_adapter(self, tenant_id: str, name: str, alias: str) -> AdapterVersion | None:
        """The version that the alias pointed at before, if it can still be called."""
        ...

    def cold_start(self, tenant_id: str) -> ColdStart:
        """The tenant's rule for calls whose adapter is not loaded."""
        ...


class Reservation(Protocol):
    """Money and tokens held for one request until it is settled exactly once; `choice` is where it may go."""

    choice: Choice
    state: RateLimitState
    reserved_microusd: int
    reserved_tokens: int

    async def extend(self, tokens: int, cost_microusd: int) -> bool:
        """Hold more for an answer that outgrows its estimate; False when a budget has no more."""
        ...

    def settle(self, entry: LedgerEntry) -> Awaitable[None]:
        """Replace the held estimate by the true usage and append the ledger entry, in one atomic script. Idempotent.

        It is on its way when this returns, before whatever is said to Redis next; await it to know that it was heard.
        """
        ...

    async def give_back(self) -> None:
        """Undo it, as if it had never been asked for: the call is decided anew, under the same request id."""
        ...


class Admission(Protocol):
    """Decides in one round trip whether a call may start, and holds what it may cost."""

    async def reserve(self, principal: Principal, call: Call, choice: Choice, request_id: str) -> Reservation:
        """Raise RateLimited, QuotaExhausted or Unavailable, or hold tokens and money until `settle`."""
        ...


class News(Protocol):
    """Whether the policy was behind at one instant: a question on its way to where changes are announced."""

    def is_behind(self) -> bool:
        """Whether it was, or that is not known yet; without waiting, for what was asked later has been answered."""
        ...

    async def missed(self) -> bool:
        """Read what was missed; whether there was something. False when it cannot be told: the last known serves."""
        ...


class Cache(Protocol):
    """Complete answers, within one tenant and one scope only."""

    def ask(self, principal: Principal, call: Call, choice: Choice) -> Asked:
        """Send for what is stored; the answer is awaited later. Never raises, never waits."""
        ...


class Asked(Protocol):
    """One call's question to the cache."""

    status: CacheStatus

    async def answer(self) -> CachedAnswer | None:
        """A stored answer that may stand for this call's own, or None; raises Unavailable if that is the policy."""
        ...

    def share(
        self, reach: Callable[[Outgoing], AbstractAsyncContextManager[tuple[Target, Upstream]]], record: Record
    ) -> AbstractAsyncContextManager[tuple[Target, Upstream]]:
        """The upstream's answer, together with identical calls of this tenant that are under way."""
        ...

    def keep(self, target: Target) -> Callable[[bytes, Usage | None], Awaitable[None]] | None:
        """What keeps a complete answer of this target (of a streaming call: its events), if anything does."""
        ...


class Placement(Protocol):
    """Turns a target into an address, and keeps the adapter loaded there while the call runs."""

    def place(self, target: Target, affinity: str) -> AbstractAsyncContextManager[Endpoint]:
        """Choose a provider address or a replica, loading the adapter first if it must; or raise Unavailable."""
        ...


class Upstream(Protocol):
    """An open answer from an upstream: head received, body running. Closing it aborts the upstream's work."""

    status: int
    content_type: bytes
    endpoint: Endpoint

    def blocks(self) -> AsyncIterator[bytes]:
        """The body's bytes as they arrive; raises UpstreamFailed when it breaks off or idles too long."""
        ...


class Backend(Protocol):
    """Sends one call to one address."""

    def open(self, endpoint: Endpoint, call: Call, request_id: str) -> AbstractAsyncContextManager[Upstream]:
        """Send and wait for the head; raise UpstreamFailed (retriable elsewhere) or UpstreamRefused (4xx)."""
        ...


class Embedder(Protocol):
    """Texts to unit vectors."""

    dimensions: int
    model: str  # vectors of different models are never compared

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (len(texts), dimensions), rows of length 1; never blocks the event loop."""
        ...


class TokenCounter(Protocol):
    """Counts tokens of a text, at least roughly, without I/O."""

    def __call__(self, text: str) -> int:
        """Tokens in `text`."""
        ...


class Meter(Protocol):
    """Counts what a running answer has used so far."""

    def usage(self) -> Usage:
        """As the upstream counted it, or estimated from what was relayed."""
        ...


class Outgoing(Protocol):
    """Whoever is told where a call has gone."""

    def sent(self, target: Target) -> None:
        """The call has gone to this target: from here on it may cost something."""
        ...


class Bill(Protocol):
    """What of an answer that several calls share each of them is charged."""

    def charge(self, used: Usage, *, complete: bool) -> Usage:
        """Close one account that was relayed so much: what it is charged."""
        ...


class Record(Outgoing, Protocol):
    """The open account of one request: told what happens, settled once when the answer ends or breaks off."""

    def shares(self, bill: Bill, *, joined: bool) -> None:
        """The answer is shared with identical calls; this one has joined, or is the first."""
        ...

    def first_byte(self) -> None:
        """The first byte of the answer is here."""
        ...

    def metered(self, target: Target, meter: Meter) -> None:
        """Name the target that answers and the meter that knows what it used."""
        ...

    def broke(self, error: GatewayError) -> None:
        """The upstream broke off after the answer had begun."""
        ...

    async def affords(self) -> bool:
        """Whether a running answer may go on: holds more when it outgrows its estimate, False when nothing is left."""
        ...

    def settle(self) -> None:
        """The answer is complete: charge it and write it down. Later calls do nothing."""
        ...


class EmbedderFailed(Exception):
    """An `Embedder` could not embed; no text is in the message."""


class HitRecord(Protocol):
    """The open account of a request that the cache answers."""

    def hit(self, answer: CachedAnswer, usage: Usage) -> None:
        """The answer comes from the cache: it costs nothing, and this is what it saved."""
        ...

    def settle(self) -> None:
        """The answer is complete: write it down. Later calls do nothing."""
        ...
