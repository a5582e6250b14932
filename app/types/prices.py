"""What tokens cost, and the tokens that were used."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True)
class Price:
    """Micro-dollars per million tokens (so 0.15 USD per million input tokens is 150_000).

    Cached input and reasoning cost what other input and output cost unless said; a tier holds from so many prompt
    tokens on, for the whole call.
    """

    input_microusd_per_mtok: int
    output_microusd_per_mtok: int
    cached_microusd_per_mtok: int | None = None
    reasoning_microusd_per_mtok: int | None = None
    tiers: tuple[PriceTier, ...] = ()


@dataclass(frozen=True, slots=True)
class PriceTier:
    """The price of calls with at least so many prompt tokens."""

    from_prompt_tokens: int
    price: Price


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens as the upstream counted them; `estimated` when the upstream did not say."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    estimated: bool = False
    reasoning_tokens: int = 0  # part of the completion tokens

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens
