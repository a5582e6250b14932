"""What a provider's training will cost, before it starts. Prices come from a dated table that the caller passes in.

An unknown price is a refusal, never zero. Money is whole micro-dollars (1 USD = 1,000,000), rounded up. Tokens are
counted by the caller's tokenizer where there is one, and else estimated at four UTF-8 bytes a token with an error of a
quarter either way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, Decimal
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapters.training.provider_jobs.errors import ProviderRefused
from adapters.types import ChatLine

TokenCount = Callable[[str], int]
_MESSAGE_TOKENS = 4  # role and separators
_STALE_DAYS = 90
_MICRO = Decimal(1_000_000)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainingPrice(_Strict):
    """What one model costs to train."""

    training_usd_per_mtok: Decimal = Field(gt=0)


class PriceTable(_Strict):
    """Prices as they were on a day; `source` says where they were read."""

    dated: date
    source: str
    models: dict[str, TrainingPrice]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Low, likely and high cost in micro-dollars; equal when tokens were counted and not guessed."""

    tokens_per_epoch: int
    epochs: int
    low_microusd: int
    likely_microusd: int
    high_microusd: int
    price_dated: date
    price_stale: bool
    counted: bool


def load_prices(path: Path) -> PriceTable:
    """Read a price table; ProviderRefused names the field that is wrong."""
    try:
        return PriceTable.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError as exc:
        raise ProviderRefused(f"prices {path}: no such file; the estimate needs a dated price table") from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ProviderRefused(f"prices {path.name}: {field}: {first['msg']}") from exc


def auto_epochs(examples: int) -> int:
    """Epochs when the provider chooses: 3, more for under 34 examples, fewer above 8,333 (OpenAI's cookbook)."""
    if examples * 3 < 100:
        return min(25, max(1, 100 // max(1, examples)))
    return max(1, 25_000 // examples) if examples * 3 > 25_000 else 3


def count_tokens(lines: Iterable[ChatLine], count: TokenCount | None = None) -> int:
    """Tokens of one epoch."""
    counted = count or (lambda text: -(-len(text.encode()) // 4))
    return sum(counted(message.content or "") + _MESSAGE_TOKENS for line in lines for message in line.messages)


def estimate(prices: PriceTable, model: str, tokens: int, epochs: int, *, today: date, counted: bool) -> Estimate:
    """Price a training; the table's entry is the longest one that the model's name starts with."""
    known = [name for name in prices.models if model == name or model.startswith(f"{name}-")]
    if not known:
        listed = ", ".join(sorted(prices.models))
        raise ProviderRefused(
            f"prices of {prices.dated}: no training price for {model}; add one (there are {listed})", param="model"
        )
    rate = prices.models[max(known, key=len)].training_usd_per_mtok
    likely = _microusd(tokens * epochs, rate)
    spread = (1, 1) if counted else (Decimal("0.75"), Decimal("1.25"))
    return Estimate(
        tokens_per_epoch=tokens,
        epochs=epochs,
        low_microusd=_up(likely * spread[0]),
        likely_microusd=_up(likely),
        high_microusd=_up(likely * spread[1]),
        price_dated=prices.dated,
        price_stale=(today - prices.dated).days > _STALE_DAYS,
        counted=counted,
    )


def _microusd(tokens: int, usd_per_mtok: Decimal) -> Decimal:
    return Decimal(tokens) * usd_per_mtok * _MICRO / Decimal(1_000_000)


def _up(amount: Decimal) -> int:
    return int(Decimal(amount).to_integral_value(rounding=ROUND_CEILING))
