"""What tokens cost: whole micro-dollars, rounded up once per request; no usage is free, no float is near money."""

from __future__ import annotations

from collections.abc import Iterable

from app.types import Price, Usage

PER_MILLION = 1_000_000


def cost_microusd(price: Price, usage: Usage) -> int:
    """The price of this usage in micro-dollars, rounded up; cached input and reasoning at their own prices."""
    price = _at(price, usage.prompt_tokens)
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


def worst_microusd(price: Price, prompt_tokens: int, completion_tokens: int) -> int:
    """The most that so many tokens may cost, whatever kind each of them turns out to be; rounded up."""
    dear_input, dear_output = _dearest_kinds(price, prompt_tokens)
    return -(-(prompt_tokens * dear_input + completion_tokens * dear_output) // PER_MILLION)


def affordable_tokens(price: Price, prompt_tokens: int, microusd: int) -> int | None:
    """How many completion tokens this money pays for beside the prompt, at the least; None: any number is free."""
    dear_input, dear_output = _dearest_kinds(price, prompt_tokens)
    if dear_output == 0:
        return None
    return max(0, microusd * PER_MILLION - prompt_tokens * dear_input) // dear_output


def _dearest_kinds(price: Price, prompt_tokens: int) -> tuple[int, int]:
    """The prices of the dearest kinds of input and of output."""
    price = _at(price, prompt_tokens)
    return (
        max(price.input_microusd_per_mtok, price.cached_microusd_per_mtok or 0),
        max(price.output_microusd_per_mtok, price.reasoning_microusd_per_mtok or 0),
    )


def _at(price: Price, prompt_tokens: int) -> Price:
    """The price of a call with so long a prompt."""
    for tier in price.tiers:
        if prompt_tokens >= tier.from_prompt_tokens:
            price = tier.price
    return price


def _or(special: int | None, usual: int) -> int:
    return usual if special is None else special
