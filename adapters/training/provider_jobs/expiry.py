"""When models are shut down: from the provider's `shutdown_date`, and from the dates an operator configures.

Of two dates the earlier one counts. A fine-tuned model also ends with its base: `ft:BASE:…` inherits the date of BASE.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal

from adapters.training.provider_jobs.provider import Provider


@dataclass(frozen=True, slots=True)
class Expiry:
    """A model that ends; `days_left` is negative afterwards."""

    model: str
    ends: date
    days_left: int
    source: Literal["provider", "configuration", "base model"]
    level: Literal["notice", "warning", "alarm"]


def expiries(
    used: Iterable[str],
    told: Mapping[str, str | None],
    configured: Mapping[str, date],
    *,
    today: date,
    horizon_days: int = 180,
) -> list[Expiry]:
    """Which of the used models end within the horizon, soonest first. `told` is the provider's list."""
    found = [made for model in used if (made := _expiry(model, told, configured, today)) is not None]
    return sorted((one for one in found if one.days_left <= horizon_days), key=lambda one: (one.ends, one.model))


async def watch(
    provider: Provider, used: Iterable[str], configured: Mapping[str, date], *, today: date, horizon_days: int = 180
) -> list[Expiry]:
    """Ask the provider and judge."""
    told = {name: shutdown async for name, shutdown in provider.models()}
    return expiries(used, told, configured, today=today, horizon_days=horizon_days)


def base_of(model: str) -> str | None:
    """The base in a fine-tuned model's name (`ft:BASE:organisation:suffix:id`)."""
    parts = model.split(":")
    return parts[1] if len(parts) > 1 and parts[0] == "ft" else None


def _expiry(model: str, told: Mapping[str, str | None], configured: Mapping[str, date], today: date) -> Expiry | None:
    base = base_of(model)
    dates: list[tuple[date, Literal["provider", "configuration", "base model"]]] = []
    if shutdown := told.get(model):
        dates.append((date.fromisoformat(shutdown), "provider"))
    if model in configured:
        dates.append((configured[model], "configuration"))
    if base and (shutdown := told.get(base)):
        dates.append((date.fromisoformat(shutdown), "base model"))
    if base and base in configured:
        dates.append((configured[base], "base model"))
    if not dates:
        return None
    ends, source = min(dates)
    left = (ends - today).days
    return Expiry(model, ends, left, source, "alarm" if left <= 30 else "warning" if left <= 90 else "notice")
