"""What tokens cost: whole micro-dollars, rounded up once per request; no usage is free, no float is near money."""

from __future__ import annotations

from collections.abc import Iterable

from app.types import Price, Usage

PER_MILLION = 1_000_000


def cost_microusd(price: Price, usage: Usage) -> int:
    """The price of this usage in micro-dollars, rounded up."""
    total = (
        usage.prompt_tokens * price.input_microusd_per_mtok + usage.completion_tokens * price.output_microusd_per_mtok
    )
    return -(-total // PER_MILLION)


def dearest_microusd(prices: Iterable[Price], usage: Usage) -> int:
    """The highest of these prices for one usage: what must be held while several targets may answer."""
    return max(cost_microusd(price, usage) for price in prices)
