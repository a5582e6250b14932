from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.cli.reconcile import BillError, compare, read_bill

EXACT = Decimal(0)


def used(model: str, day: str, cost: int, prompt: int = 0, completion: int = 0) -> dict[str, Any]:
    """A row of the usage API."""
    return {
        "model": model,
        "day": day,
        "cost_microusd": cost,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
    }


def bill(tmp_path: Path, text: str) -> Path:
    """A file with this text."""
    path = tmp_path / "bill.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_bill_by_day_is_compared_day_by_day(tmp_path: Path) -> None:
    """Lines of the same model and day are added; what only one side has does not agree."""
    path = bill(
        tmp_path,
        "Date,Model,cost_usd,input_tokens,output_tokens\n"
        "2026-01-01T00:00:00Z,m,0.000010,5,5\n2026-01-01,m,0.000005,1,4\n2026-01-02,m,1.5,0,0\n2026-01-02,extra,2,,\n",
    )
    rows = [used("m", "2026-01-01", 15, 6, 9), used("m", "2026-01-02", 1_500_001), used("ours", "2026-01-02", 1)]
    compared = {(one.model, one.day): one for one in compare(read_bill(path), rows, tolerance=EXACT)}
    assert compared["m", "2026-01-01"].agrees
    assert compared["m", "2026-01-01"].row()["billed_tokens"] == 15
    assert not compared["m", "2026-01-02"].agrees
    assert compared["m", "2026-01-02"].row()["difference_microusd"] == 1
    assert not compared["extra", "2026-01-02"].agrees
    assert not compared["ours", "2026-01-02"].agrees


def test_a_bill_without_days_is_compared_as_a_whole(tmp_path: Path) -> None:
    """The ledger's days are added up; a tolerance is a share of the bill."""
    path = bill(tmp_path, "model,amount_value\nm,1.000\n")
    rows = [used("m", "2026-01-01", 400_000), used("m", "2026-01-02", 599_500)]
    (strict,) = compare(read_bill(path), rows, tolerance=EXACT)
    (near,) = compare(read_bill(path), rows, tolerance=Decimal("0.001"))
    assert (strict.agrees, near.agrees) == (False, True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected a column model"),
        ("model\nm\n", "expected a column cost_usd or amount_usd"),
        ("model,cost_usd\nm,much\n", "bill.csv:2: cost_usd: expected a number, not 'much'"),
        ("model,cost_usd\nm,NaN\n", "expected a number"),
    ],
)
def test_a_bad_bill_names_line_and_column(tmp_path: Path, text: str, says: str) -> None:
    """What cannot be read is no bill of zero."""
    with pytest.raises(BillError, match=says):
        read_bill(bill(tmp_path, text))
    with pytest.raises(BillError, match="cannot be read"):
        read_bill(tmp_path / "absent.csv")


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 10**9)), max_size=20))
def test_a_bill_made_from_the_ledger_agrees_to_the_unit(entries: list[tuple[str, int]]) -> None:
    """No rounding anywhere: the same amounts, however divided, agree with a tolerance of zero."""
    import tempfile

    lines = [f"{model},{Decimal(cost) / 1_000_000}" for model, cost in entries]
    with tempfile.TemporaryDirectory() as folder:
        made = read_bill(bill(Path(folder), "\n".join(["model,cost_usd", *lines]) + "\n"))
    rows = [used(model, "2026-01-01", cost) for model, cost in entries]
    assert all(one.agrees for one in compare(made, rows, tolerance=EXACT))
