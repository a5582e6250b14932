"""The price of an upstream model, at a moment: the operator's own, else a price file's, else the public list's.

Order: `upstream/model` of the configuration, the price file, `upstream/*` of the configuration, the public list, then
the policy for unknown prices. Nothing is free by accident: only an explicit price of zero costs nothing, and a
fine-tuned model never slides to its base model's price. Everything is in memory; nothing here asks the network.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from app.errors import Unavailable
from app.types import Price

FREE = Price(0, 0)
UNPRICED_RETRY_SECONDS = 60
REMEMBERED = 4096
REMEMBERED_SECONDS = 60.0  # a dated price takes effect within it
Changes = Sequence[tuple[float, Price]]
Source = Callable[[str, str, float], Price | None]


@dataclass(frozen=True, slots=True)
class PriceList:
    """Known prices; `default` is charged for unknown models, None refuses them.

    `models` and `changes` are by `upstream/model` or `upstream/*`; a change is a later price and the instant from which
    it holds. `files` and `public` look a price up by upstream, model and instant.
    """

    models: Mapping[str, Price]
    default: Price | None = None
    changes: Mapping[str, Changes] = field(default_factory=dict)
    files: Source = lambda _upstream, _model, _now: None
    public: Source = lambda _upstream, _model, _now: None
    clock: Callable[[], float] = time.time
    _found: dict[tuple[str, str], tuple[float, Price]] = field(default_factory=dict, init=False, compare=False)

    def price(self, upstream: str, model: str) -> Price:
        """Micro-dollars per million tokens now; raises Unavailable for an unknown price under the policy `block`."""
        now = self.clock()
        known = self._found.get((upstream, model))
        if known is not None and 0 <= now - known[0] < REMEMBERED_SECONDS:
            return known[1]
        found = (
            self._own(f"{upstream}/{model}", now)
            or self.files(upstream, model, now)
            or self._own(f"{upstream}/*", now)
            or self.public(upstream, model, now)
            or self.default
        )
        if found is None:
            raise Unavailable(
                f"The model behind this route has no price. The operator must set prices.models['{upstream}/*'].",
                retry_after_seconds=UNPRICED_RETRY_SECONDS,
            )
        if len(self._found) >= REMEMBERED:
            self._found.clear()
        self._found[upstream, model] = now, found
        return found

    def _own(self, name: str, now: float) -> Price | None:
        price = self.models.get(name)
        for since, later in self.changes.get(name, ()):
            if now >= since:
                price = later
        return price
