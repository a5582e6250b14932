"""The proofs in short: the same code, smaller figures, so that a broken promise is found by every run of the tests."""

from __future__ import annotations

from tests.prove import hostile
from tests.prove.adapters import Size, prove

SHORT = Size(
    replicas=2,
    adapters=30,
    tenants=6,
    requests=300,
    max_loras=2,
    max_cpu_loras=8,
    callers=8,
    swapped=8,
    swap_seconds=0.5,
)


async def test_adapters_under_swaps_and_kills_in_short() -> None:
    """Two engines, thirty adapters, kill -9 of one engine and of one gateway: none wrong, late, failed or unnoted."""
    tally = await prove(SHORT)
    assert tally.promises_held(), tally
    assert tally.judged >= SHORT.requests
    assert tally.swaps > 0
    assert tally.gateways_restarted == 1
    assert tally.recovered_seconds is not None
    assert tally.gateway_seconds is not None
    assert len(tally.answered) == tally.ok


def test_hostile_adapters_in_short() -> None:
    """Hostile names, links, archives and fuzzed headers: no escape, no load, no crash."""
    tally = hostile.prove(names=200, headers=1000)
    assert tally.promises_held(), tally
