"""What keeps the number of series small: children by bounded label values, and a registry without its `_created`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

MAX_NAMES = 200
OTHER = "other"

M = TypeVar("M")


class Bounded(Generic[M]):
    """Makes one thing per combination of label values and keeps it; past the limit, all get the one of `other`."""

    def __init__(self, make: Callable[..., M], limit: int = MAX_NAMES) -> None:
        self._make = make
        self._limit = limit
        self._kept: dict[tuple[str, ...], M] = {}

    def __call__(self, *values: str) -> M:
        """The thing of these values."""
        kept = self._kept.get(values)
        return kept if kept is not None else self._first(values)

    def _first(self, values: tuple[str, ...]) -> M:
        if len(self._kept) >= self._limit:
            values = (OTHER,) * len(values)
        kept = self._kept.get(values)
        if kept is None:
            kept = self._kept[values] = self._make(*values)
        return kept


class Lean(Collector):
    """Families and a registry, without the `_created` series, which would double every counter for nobody."""

    def __init__(self, families: Iterable[Metric], registry: CollectorRegistry) -> None:
        self._families = families
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        yield from self._families
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
