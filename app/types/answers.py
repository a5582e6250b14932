"""What comes back: to the caller, from the cache, and into the ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec

from app.types.words import CacheStatus, Operation, Outcome


@dataclass(slots=True)
class Reply:
    """What goes back to the caller: a head that is final, and a body that may still be running.

    `body` yields bytes blocks; for a stream each block ends on an event border.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: AsyncIterator[bytes]
    stream: bool


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """A stored complete answer: the JSON body of a non-streaming reply and what it once cost."""

    body: bytes
    status: CacheStatus
    stored_at: float


class LedgerEntry(msgspec.Struct, frozen=True, gc=False):
    """One append-only line of the ledger: who used what, how much of it, at what cost, and how it ended."""

    request_id: str
    tenant_id: str
    team_id: str | None
    key_id: str
    user_hash: str | None
    operation: Operation
    route: str
    variant: str
    upstream: str
    model: str
    adapter_version: str | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    estimated: bool
    cost_microusd: int
    saved_microusd: int
    outcome: Outcome
    status: int
    started_at: float
    latency_ms: int
    first_byte_ms: int | None
    cache: CacheStatus = CacheStatus.BYPASS
    reasoning_tokens: int = 0
    byok_microusd: int = 0  # what the caller's own provider key was used for: recorded, never charged here
    adjustment: bool = False  # corrects an earlier `lost` entry of the same request: figures are differences
