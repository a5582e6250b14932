"""A provider's bill beside our ledger: by model, and by day where the bill has days. Pure but for reading the file.

A bill is CSV with a header: `model` and `cost_usd` (or `amount_usd`, `amount_value`), and where it has them `day` (or
`date`), `input_tokens`, `output_tokens`. Sums are exact decimals. A bill does not know tenants, so it is compared with
what all tenants together used of that upstream.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

COST = ("cost_usd", "amount_usd", "amount_value")
DAY = ("day", "date")
INPUT, OUTPUT = ("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens")
MICRO = Decimal(1_000_000)
Place = tuple[str, str]


class BillError(Exception):
    """The bill, or the tolerance, cannot be used; the text names the file, line and column, or the option."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Money in micro-dollars, and tokens where they are known."""

    microusd: Decimal = Decimal(0)
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def plus(self, other: Sums) -> Sums:
        """Both together."""
        return Sums(
            self.microusd + other.microusd,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


@dataclass(frozen=True, slots=True)
class Compared:
    """One model (of one day): the bill, our ledger, and whether they agree."""

    model: str
    day: str
    billed: Sums
    ledger: Sums
    agrees: bool

    def row(self) -> dict[str, Any]:
        """For printing."""
        return {
            "model": self.model,
            "day": self.day or None,
            "billed_microusd": int(self.billed.microusd),
            "ledger_microusd": int(self.ledger.microusd),
            "difference_microusd": int(self.ledger.microusd - self.billed.microusd),
            "billed_tokens": self.billed.prompt_tokens + self.billed.completion_tokens,
            "ledger_tokens": self.ledger.prompt_tokens + self.ledger.completion_tokens,
            "agrees": self.agrees,
        }


def share(text: str) -> Decimal:
    """A tolerance as it was typed; raises BillError."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value < 0:
        raise BillError(f"--tolerance: expected a share of the bill such as 0.001, not '{text}'")
    return value


def read_bill(path: Path) -> dict[Place, Sums]:
    """Sums of a bill by model and day ('' without days); raises BillError."""
    bill: dict[Place, Sums] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = _columns(path, reader.fieldnames or [])
            for row in reader:
                place = (row[columns["model"]] or "", (row[columns["day"]] or "")[:10] if "day" in columns else "")
                bill[place] = bill.get(place, Sums()).plus(_sums(path, reader.line_num, row, columns))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise BillError(f"{path}: cannot be read as CSV ({exc})") from exc
    return bill


def compare(bill: Mapping[Place, Sums], rows: Iterable[Mapping[str, Any]], *, tolerance: Decimal) -> list[Compared]:
    """Every model and day of either side; they agree when the money differs by at most this share of the bill."""
    by_day = any(day for _, day in bill)
    ledger: dict[Place, Sums] = {}
    for row in rows:
        place = (row["model"], row["day"] if by_day else "")
        sums = Sums(Decimal(row["cost_microusd"]), row["prompt_tokens"], row["completion_tokens"])
        ledger[place] = ledger.get(place, Sums()).plus(sums)
    compared = []
    for model, day in sorted(bill.keys() | ledger.keys()):
        billed, ours = bill.get((model, day), Sums()), ledger.get((model, day), Sums())
        agrees = abs(ours.microusd - billed.microusd) <= tolerance * billed.microusd
        compared.append(Compared(model, day, billed, ours, agrees))
    return compared


def _columns(path: Path, names: Iterable[str]) -> dict[str, str]:
    there = {name.strip().lower(): name for name in names}
    wanted = {"model": ("model",), "cost": COST, "day": DAY, "input": INPUT, "output": OUTPUT}
    found = {meaning: there[name] for meaning, known in wanted.items() for name in reversed(known) if name in there}
    for meaning, known in (("model", ("model",)), ("cost", COST)):
        if meaning not in found:
            raise BillError(f"{path}:1: expected a column {' or '.join(known)}")
    return found


def _sums(path: Path, line: int, row: Mapping[str, str | None], columns: Mapping[str, str]) -> Sums:
    def number(meaning: str) -> Decimal:
        text = (row.get(columns[meaning]) or "0").strip() if meaning in columns else "0"
        try:
            value = Decimal(text)
        except InvalidOperation:
            value = Decimal("NaN")
        if not value.is_finite():
            raise BillError(f"{path}:{line}: {columns[meaning]}: expected a number, not '{text}'")
        return value

    return Sums(number("cost") * MICRO, int(number("input")), int(number("output")))
