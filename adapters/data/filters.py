"""Which tickets are good enough to learn from: rating, age, time until solved, length; each with its own reason."""

from __future__ import annotations

from datetime import UTC, datetime

from adapters.settings import Columns, Filters
from adapters.types import Example


def filtered(example: Example, filters: Filters, columns: Columns, as_of: float) -> str | None:
    """Give the reason why an example is left out, or None. A filter applies where its column is mapped."""
    return (
        _satisfaction(example, filters, mapped=columns.satisfaction is not None)
        or _age(example, filters, as_of, mapped=columns.created_at is not None)
        or _resolution(example, filters, mapped=columns.resolution_seconds is not None)
        or _length(example, filters)
    )


def months_before(instant: float, months: int) -> float:
    """Go back so many calendar months; a day that the month lacks becomes its last one."""
    now = datetime.fromtimestamp(instant, UTC)
    year, month = divmod(now.year * 12 + now.month - 1 - months, 12)
    day = min(now.day, _days_in(year, month + 1))
    return now.replace(year=year, month=month + 1, day=day).timestamp()


def _days_in(year: int, month: int) -> int:
    following = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    return (following - datetime(year, month, 1, tzinfo=UTC)).days


def _satisfaction(example: Example, filters: Filters, *, mapped: bool) -> str | None:
    if filters.satisfaction_above is None:
        return None
    if example.satisfaction is None:
        return "filter:satisfaction_unknown" if mapped else None
    return "filter:satisfaction" if example.satisfaction <= filters.satisfaction_above else None


def _age(example: Example, filters: Filters, as_of: float, *, mapped: bool) -> str | None:
    if filters.last_months is None:
        return None
    if example.created_at is None:
        return "filter:age_unknown" if mapped else None
    if example.created_at > as_of:
        return "filter:in_the_future"
    return "filter:age" if example.created_at < months_before(as_of, filters.last_months) else None


def _resolution(example: Example, filters: Filters, *, mapped: bool) -> str | None:
    if filters.resolution_seconds_max is None:
        return None
    if example.resolution_seconds is None:
        return "filter:resolution_unknown" if mapped else None
    return "filter:resolution" if example.resolution_seconds > filters.resolution_seconds_max else None


def _length(example: Example, filters: Filters) -> str | None:
    length = sum(len(message.content or "") for message in example.messages)
    if filters.characters_min is not None and length < filters.characters_min:
        return "filter:too_short"
    if filters.characters_max is not None and length > filters.characters_max:
        return "filter:too_long"
    return None
