"""The price of an upstream model: `upstream/model`, else `upstream/*`, else the policy for unknown prices.

Nothing is free by accident: only an explicit price of zero costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.errors import Unavailable
from app.types import Price

FREE = Price(0, 0)
UNPRICED_RETRY_SECONDS = 60


@dataclass(frozen=True, slots=True)
class PriceList:
    """Known prices by `upstream/model`; `default` is charged for unknown models, None refuses them."""

    models: Mapping[str, Price]
    default: Price | None = None

    def price(self, upstream: str, model: str) -> Price:
        """Micro-dollars per million tokens; raises Unavailable for an unknown price under the policy `block`."""
        found = self.models.get(f"{upstream}/{model}") or self.models.get(f"{upstream}/*") or self.default
        if found is None:
            raise Unavailable(
                f"The model behind this route has no price. The operator must set prices.models['{upstream}/*'].",
                retry_after_seconds=UNPRICED_RETRY_SECONDS,
            )
        return found
