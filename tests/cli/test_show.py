"""What people read, and the limits they type: exact money, nothing lost."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cli.limits import amount
from app.cli.show import dollars, text


@pytest.mark.parametrize(
    ("microusd", "said"),
    [
        (0, "$0.00"),
        (1, "$0.000001"),
        (10_000, "$0.01"),
        (12_345, "$0.012345"),
        (2_500_000, "$2.50"),
        (1_234_567_890_000, "$1,234,567.89"),
        (-40, "-$0.00004"),
    ],
)
def test_dollars(microusd: int, said: str) -> None:
    """At least cents, never more digits than there are."""
    assert dollars(microusd) == said


@given(microusd=st.integers(0, 10**15))
def test_money_that_was_shown_can_be_typed_again(microusd: int) -> None:
    """Showing and reading lose no micro-dollar."""
    shown = dollars(microusd).replace("$", "").replace(",", "")
    assert Decimal(shown) * 1_000_000 == microusd
    assert amount("budget_day", shown) == microusd


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("name", None, "-"),
        ("created_at", 0.0, "1970-01-01 00:00:00Z"),
        ("aliases", ["a", "b"], "a b"),
        ("requests", 1234567, "1,234,567"),
        ("enabled", True, "True"),
        ("limits", {"requests_per_minute": None}, "none"),
        ("limits", {"requests_per_minute": 1000, "budget_month_microusd": 5}, "rpm=1,000 budget/month=$0.000005"),
    ],
)
def test_fields(name: str, value: object, said: str) -> None:
    """Each kind of field as people read it."""
    assert text(name, value) == said
