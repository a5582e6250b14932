"""Versions of adapters, and what may be done while one is not loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """An immutable adapter: `id` is `tenant--name@sha12`, `path` is content-addressed and readable by every replica.

    `reference` is what it answered where it was made: prompts, each with its likeliest next tokens and their log
    probabilities.
    """

    id: str
    tenant_id: str
    name: str
    sha256: str
    path: str
    base_model: str
    rank: int
    reference: tuple[tuple[str, tuple[tuple[str, float], ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class ColdStart:
    """A tenant's rule for calls whose adapter is not loaded: wait (None: the pool's load time), then perhaps the last.

    `previous` allows the version that the alias meant before to answer after the wait; otherwise the call gets 503.
    """

    wait_ms: int | None = None
    previous: bool = False
