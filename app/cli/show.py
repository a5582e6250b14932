"""What the admin commands print: JSON for programs, tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

SHORT = {
    "requests_per_minute": "rpm",
    "requests_burst": "burst",
    "tokens_per_minute": "tpm",
    "tokens_burst": "token-burst",
    "tokens_per_day": "tpd",
    "concurrent_requests": "concurrent",
    "budget_day_microusd": "budget/day",
    "budget_week_microusd": "budget/week",
    "budget_month_microusd": "budget/month",
    "budget_total_microusd": "budget/total",
    "spend_per_minute_microusd": "spend-cap",
    "spend_surge_percent": "spend-surge%",
}


def show(answer: Any, columns: Sequence[str], *, as_json: bool) -> None:
    """An answer of the admin API, one object or a listing, with these of its fields."""
    if as_json:
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = answer.get("data", [answer])
    table = Table(*(column.removesuffix("_microusd") for column in columns), box=None, header_style="bold")
    for row in rows:
        table.add_row(*(Text(text(name, row.get(name))) for name in columns))
    Console().print(table if rows else "nothing yet")


def text(name: str, value: Any) -> str:
    """One field for people."""
    if value is None:
        return "-"
    if name == "limits":
        return _limits(value)
    if name.endswith("_at"):
        return datetime.fromtimestamp(value, tz=UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if name.endswith("_microusd"):
        return dollars(value)
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def dollars(microusd: int) -> str:
    """Whole micro-dollars as USD, exactly: two digits after the point, and as many more as it takes, up to six."""
    sign, amount = ("-" if microusd < 0 else ""), abs(microusd)
    cents, rest = divmod(amount, 10_000)
    tail = f"{rest:04d}".rstrip("0")
    return f"{sign}${cents // 100:,}.{cents % 100:02d}{tail}"


def _limits(limits: Mapping[str, int | str | None]) -> str:
    said = [f"{SHORT.get(name, name)}={text(name, value)}" for name, value in limits.items() if value is not None]
    return " ".join(said) or "none"
