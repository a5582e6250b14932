"""The ledger entry that a reservation leaves behind when its lease runs out: the estimate, flagged `lost`."""

from __future__ import annotations

import time

from app.types import Call, Choice, LedgerEntry, Outcome, Principal, Usage


def lost_entry(
    principal: Principal, call: Call, choice: Choice, request_id: str, held: Usage, *, cost: int, user_hash: str | None
) -> LedgerEntry:
    """What is written down if nobody ever says what the call truly used."""
    target = choice.targets[0]
    return LedgerEntry(
        request_id=request_id,
        tenant_id=principal.tenant_id,
        team_id=principal.team_id,
        key_id=principal.key_id,
        user_hash=user_hash,
        operation=call.operation,
        route=choice.route.name,
        variant=choice.variant,
        upstream=target.upstream,
        model=target.model,
        adapter_version=target.adapter.id if target.adapter else None,
        prompt_tokens=held.prompt_tokens,
        completion_tokens=held.completion_tokens,
        cached_tokens=0,
        estimated=True,
        cost_microusd=cost,
        saved_microusd=0,
        outcome=Outcome.LOST,
        status=0,
        started_at=time.time(),
        latency_ms=0,
        first_byte_ms=None,
    )
