"""Prices that others have written down: a file in LiteLLM's price-map format, and the public list of `genai-prices`.

Both are read from this machine only and checked when they are loaded. A fine-tuned model `ft:BASE:org:name:id` has the
price of the entry `ft:BASE`, never that of BASE.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

from genai_prices.data import providers
from genai_prices.types import ModelPrice, TieredPrices

from app.types import Price, PriceTier

PER_TOKEN = Decimal(10**12)  # dollars per token to micro-dollars per million tokens
PER_MTOK = Decimal(10**6)
EXAMPLE = "sample_spec"  # LiteLLM's own description of the format, an entry among the others
_FIELDS = ("input_cost_per_token", "output_cost_per_token")
_CACHED, _REASONING = "cache_read_input_token_cost", "output_cost_per_reasoning_token"


class PriceFileError(Exception):
    """The price file cannot be used; the text names the file, the model and the field."""


class PriceFile:
    """A price map, by `upstream/model` or `model`."""

    def __init__(self, prices: Mapping[str, Price]) -> None:
        self._prices = prices

    @classmethod
    def read(cls, path: Path) -> PriceFile:
        """Read and check a file; raises PriceFileError. Entries that are not priced by the token are left out."""
        try:
            entries = json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
        except OSError as exc:
            raise PriceFileError(f"{path}: cannot be read ({exc.strerror})") from exc
        except ValueError as exc:
            raise PriceFileError(f"{path}: not JSON: {exc}") from exc
        if not isinstance(entries, dict):
            raise PriceFileError(f"{path}: expected an object of model names")
        prices = {}
        for name, entry in entries.items():
            if not isinstance(entry, dict):
                raise PriceFileError(f"{path}: '{name}': expected an object")
            if name != EXAMPLE and any(field in entry for field in _FIELDS):
                prices[name] = _entry(path, name, entry)
        return cls(prices)

    def __call__(self, upstream: str, model: str, _now: float) -> Price | None:
        """The price of a model of an upstream, or None."""
        for name in _names(model):
            found = self._prices.get(f"{upstream}/{name}") or self._prices.get(name)
            if found is not None:
                return found
        return None


class PublicPrices:
    """The list of `genai-prices`; `upstreams` says by which of its providers an upstream of ours is known there."""

    def __init__(self, upstreams: Mapping[str, str]) -> None:
        known = {provider.id: provider for provider in providers}
        self._providers = {name: known[listed] for name, listed in upstreams.items() if listed in known}

    def __call__(self, upstream: str, model: str, now: float) -> Price | None:
        """The price of a model at an instant, or None; prices by the time of day are taken as of that instant."""
        provider = self._providers.get(upstream)
        found = None if provider is None else provider.find_model(model)
        if found is None or (model.startswith("ft:") and not found.id.startswith("ft:")):
            return None
        return _public(found.get_prices(datetime.fromtimestamp(now, UTC)))


def listed_provider(base_url: str) -> str | None:
    """The provider of the public list that answers at this address, or None."""
    return next((provider.id for provider in providers if re.match(provider.api_pattern, base_url)), None)


def is_listed(provider: str) -> bool:
    """Whether the public list knows this provider."""
    return any(listed.id == provider for listed in providers)


def _names(model: str) -> list[str]:
    if not model.startswith("ft:"):
        return [model]
    return [model, ":".join(model.split(":")[:2])]


def _entry(path: Path, name: str, entry: Mapping[str, Any]) -> Price:
    def amount(field: str) -> int | None:
        value = entry.get(field)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | Decimal) or value < 0:
            raise PriceFileError(f"{path}: '{name}': {field}: expected dollars per token, a number of at least 0")
        return _up(Decimal(value) * PER_TOKEN)

    return Price(
        amount(_FIELDS[0]) or 0,
        amount(_FIELDS[1]) or 0,
        cached_microusd_per_mtok=amount(_CACHED),
        reasoning_microusd_per_mtok=amount(_REASONING),
    )


def _public(price: ModelPrice) -> Price | None:
    if price.input_mtok is None and price.output_mtok is None:
        return None
    starts = {tier.start for part in _parts(price) if isinstance(part, TieredPrices) for tier in part.tiers}
    base = _at(price, 0)
    tiers = tuple(PriceTier(start, _at(price, start)) for start in sorted(starts))
    return Price(
        base.input_microusd_per_mtok,
        base.output_microusd_per_mtok,
        cached_microusd_per_mtok=base.cached_microusd_per_mtok,
        tiers=tiers,
    )


def _parts(price: ModelPrice) -> tuple[Decimal | TieredPrices | None, ...]:
    return price.input_mtok, price.output_mtok, price.cache_read_mtok


def _at(price: ModelPrice, prompt_tokens: int) -> Price:
    values = [_tier(part, prompt_tokens) for part in _parts(price)]
    return Price(values[0] or 0, values[1] or 0, cached_microusd_per_mtok=values[2])


def _tier(part: Decimal | TieredPrices | None, prompt_tokens: int) -> int | None:
    if part is None:
        return None
    if not isinstance(part, TieredPrices):
        return _up(part * PER_MTOK)
    reached = [tier.price for tier in part.tiers if tier.start <= prompt_tokens]
    return _up((reached[-1] if reached else part.base) * PER_MTOK)


def _up(amount: Decimal) -> int:
    return int(amount.to_integral_value(ROUND_CEILING))
