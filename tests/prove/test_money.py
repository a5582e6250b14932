"""The short form of `make prove-money`: every proof once, in seconds."""

from __future__ import annotations

import pytest

from tests.prove.money import PROOFS, Size, prove

SHORT = Size(rounds=6, calls=100, kills=2, seconds=5.0, steps=1500, values=300)


@pytest.mark.parametrize("name", sorted(PROOFS))
def test_money_is_proved_in_short(name: str) -> None:
    """No overspend, no phantom, no wrong or doubled charge, no divergence; times are figures here, not promises."""
    (proof,) = prove(SHORT, name)
    assert proof.exact, proof.line
