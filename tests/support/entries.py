"""Ledger entries for tests."""

from __future__ import annotations

from typing import Any

from app.types import CacheStatus, LedgerEntry, Operation, Outcome


def entry(tenant_id: str = "acme", number: int = 0, **fields: Any) -> LedgerEntry:
    """An entry with plain values, but for the fields given."""
    values: dict[str, Any] = {
        "request_id": f"req_{number}",
        "tenant_id": tenant_id,
        "team_id": None,
        "key_id": "key_1",
        "user_hash": None,
        "operation": Operation.CHAT,
        "route": "support",
        "variant": "champion",
        "upstream": "main",
        "model": "base",
        "adapter_version": None,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "cached_tokens": 0,
        "estimated": False,
        "cost_microusd": 7,
        "saved_microusd": 0,
        "outcome": Outcome.OK,
        "status": 200,
        "started_at": 1_767_268_800.0,
        "latency_ms": 12,
        "first_byte_ms": 3,
        "cache": CacheStatus.MISS,
    }
    return LedgerEntry(**{**values, **fields})
