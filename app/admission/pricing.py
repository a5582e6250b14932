"""What tokens cost: whole micro-dollars, rounded up once per request; no usage is free, no float is near money."""

from __future__ import annotations

from collections.abc import Iterable

from app.types import Price, Usage

PER_MILLION = 1_000_000


def cost_microusd(price: Price, usage: Usage) -> int:
    """The price of this usage in micro-dollars, rounded up; cached input and reasoning at their own prices."""
    for tier in price.tiers:
        if usage.prompt_tokens >= tier.from_prompt_tokens:
            price = tier.price
    cached = min(usage.cached_tokens, usage.prompt_tokens)
    reasoning = min(usage.reasoning_tokens, usage.completion_tokens)
    total = (
        (usage.prompt_tokens - cached) * price.input_microusd_per_mtok
        + cached * _or(price.cached_microusd_per_mtok, price.input_microusd_per_mtok)
        + (usage.completion_tokens - reasoning) * price.output_microusd_per_mtok
        + reasoning * _or(price.reasoning_microusd_per_mtok, price.output_microusd_per_mtok)
    )
    return -(-total // PER_MILLION)


def dearest_microusd(prices: Iterable[Price], usage: Usage) -> int:
    """The highest of these prices for one usage: what must be held while several targets may answer."""
    return max(cost_microusd(price, usage) for price in prices)


def _or(special: int | None, usual: int) -> int:
    return usual if special is None else special
