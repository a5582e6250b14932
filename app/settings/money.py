"""What upstream models cost, and how much is held for a running request."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from app.settings.fields import Section, Usd
from app.types import Price


class TokenPrices(Section):
    """What a model costs, in USD per million tokens (converted to whole micro-dollars, rounded up)."""

    input_usd_per_mtok: Usd = Field(description="USD per million prompt tokens.")
    output_usd_per_mtok: Usd = Field(description="USD per million completion tokens.")
    cached_input_usd_per_mtok: Usd | None = Field(
        default=None, description="USD per million prompt tokens that the upstream had cached; none is as other input."
    )
    reasoning_usd_per_mtok: Usd | None = Field(
        default=None, description="USD per million reasoning tokens; none is as other output."
    )

    def value(self) -> Price:
        """Whole micro-dollars per million tokens."""
        cached, reasoning = self.cached_input_usd_per_mtok, self.reasoning_usd_per_mtok
        return Price(
            _microusd(self.input_usd_per_mtok),
            _microusd(self.output_usd_per_mtok),
            cached_microusd_per_mtok=None if cached is None else _microusd(cached),
            reasoning_microusd_per_mtok=None if reasoning is None else _microusd(reasoning),
        )


class PriceSettings(Section):
    """What a model costs: by the token, or by the GPU hour of your own servers."""

    input_usd_per_mtok: Usd | None = Field(default=None, description="USD per million prompt tokens.")
    output_usd_per_mtok: Usd | None = Field(default=None, description="USD per million completion tokens.")
    cached_input_usd_per_mtok: Usd | None = Field(
        default=None, description="USD per million prompt tokens that the upstream had cached; none is as other input."
    )
    reasoning_usd_per_mtok: Usd | None = Field(
        default=None, description="USD per million reasoning tokens; none is as other output."
    )
    usd_per_gpu_hour: Usd | None = Field(
        default=None, description="USD per GPU hour instead of a price per token, for your own servers."
    )
    tokens_per_gpu_hour: int | None = Field(
        default=None, ge=1, description="Tokens, in and out, that one GPU hour serves when it is busy as planned."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        by_token = (self.input_usd_per_mtok is not None, self.output_usd_per_mtok is not None)
        by_hour = (self.usd_per_gpu_hour is not None, self.tokens_per_gpu_hour is not None)
        if (by_token, by_hour) in (((True, True), (False, False)), ((False, False), (True, True))):
            return self
        raise ValueError(
            "expected input_usd_per_mtok and output_usd_per_mtok, or usd_per_gpu_hour and tokens_per_gpu_hour"
        )

    def value(self) -> Price:
        """Whole micro-dollars per million tokens, rounded up."""
        if self.usd_per_gpu_hour is not None and self.tokens_per_gpu_hour is not None:
            each = _microusd(self.usd_per_gpu_hour * 1_000_000 / self.tokens_per_gpu_hour)
            return Price(each, each)
        names = TokenPrices.model_fields
        return TokenPrices.model_validate({name: getattr(self, name) for name in names}).value()


class PriceChange(PriceSettings):
    """A price from a day on."""

    since: date = Field(description="The UTC day from which this price holds.")

    def instant(self) -> float:
        """The beginning of that day, in seconds since the epoch."""
        return datetime.combine(self.since, datetime.min.time(), UTC).timestamp()


class ModelPrices(PriceSettings):
    """What a model costs now, and what it will cost."""

    changes: list[PriceChange] = Field(default_factory=list, description="Later prices, each from its day on.")


def _microusd(usd: float) -> int:
    return math.ceil(Decimal(str(usd)) * 1_000_000)


class Pricing(Section):
    """Prices of upstream models; nothing is free by accident."""

    models: dict[str, ModelPrices] = Field(
        default_factory=dict, description="`upstream/model` (or `upstream/*`) to its price; adapters use their pool's."
    )
    file: Path | None = Field(
        default=None, description="A price map in LiteLLM's format; it goes before the public list and `upstream/*`."
    )
    public: bool = Field(
        default=True, description="Providers at a known address have the public list prices unless you set others."
    )
    unknown: Literal["block", "default"] = Field(
        default="block", description="A model without a price is refused, or charged the default price."
    )
    default: TokenPrices = Field(
        default=TokenPrices(input_usd_per_mtok=5.0, output_usd_per_mtok=15.0),
        description="The price under `unknown: default`.",
    )


class Admission(Section):
    """How much is held for a running request."""

    lease_seconds: int = Field(
        default=900,
        ge=5,
        le=86_400,
        description="Without settlement for so long, a request is charged its estimate.",
    )
    default_output_tokens: int = Field(
        default=256,
        ge=1,
        le=1_000_000,
        description="Held for a request without max_tokens while the route's own use is unknown.",
    )
    without_redis: Literal["local", "refuse"] = Field(
        default="local",
        description="While Redis is away: admit by this gateway's share of the limits, or refuse everything with 503.",
    )
    gateways: int = Field(
        default=1, ge=1, le=10_000, description="Gateways that share the limits: each takes its part without Redis."
    )
    allowance_microusd: int = Field(
        default=50_000,
        ge=0,
        le=10**12,
        description="What one gateway may spend of any budget without Redis, in micro-dollars; 0 spends nothing.",
    )
    max_pending_charges: int = Field(
        default=10_000,
        ge=1,
        description="Charges that may wait for Redis in memory; then calls are refused rather than not written down.",
    )
    max_output_tokens: int = Field(default=131_072, ge=1, description="Largest max_tokens that is accepted.")
    max_choices: int = Field(default=8, ge=1, le=128, description="Largest `n` that is accepted.")
