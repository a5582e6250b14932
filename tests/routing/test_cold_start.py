"""Calls whose adapter is not loaded: the tenant's rule decides who may answer, and nobody else does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from app.errors import NotFound
from app.routing.prices import PriceList
from app.routing.routes import Router
from app.types import (
    AdapterTarget,
    AdapterVersion,
    ColdStart,
    KeyRecord,
    Operation,
    Price,
    Principal,
    Route,
    Variant,
)
from tests.backends.calls import call
from tests.placement.adapters import adapter

CALLER = Principal("acme", None, "key", frozenset(Operation), None, ())


@dataclass(slots=True)
class KnownPolicy:
    """One route to one adapter, whose alias has meant one or two versions."""

    now: AdapterVersion | None
    before: AdapterVersion | None = None
    rule: ColdStart = field(default_factory=ColdStart)

    def key(self, digest: bytes) -> KeyRecord | None:
        """Nobody."""
        return None

    def route(self, tenant_id: str, name: str) -> Route | None:
        """The one route."""
        return Route(name, None, (Variant("main", 1, AdapterTarget("pool", "support")),))

    def routes(self, tenant_id: str) -> Sequence[Route]:
        """None to list."""
        return ()

    def adapter(self, tenant_id: str, name: str, alias: str) -> AdapterVersion | None:
        """What the alias means."""
        return self.now

    def previous_adapter(self, tenant_id: str, name: str, alias: str) -> AdapterVersion | None:
        """What it meant before."""
        return self.before

    def cold_start(self, tenant_id: str) -> ColdStart:
        """The tenant's rule."""
        return self.rule


def _targets(policy: KnownPolicy) -> list[tuple[str, int | None]]:
    router = Router(lambda: policy, PriceList({"pool/*": Price(1, 1)}), {"pool": "base"})
    return [(target.model, target.cold_wait_ms) for target in router.choose(CALLER, call()).targets]


def test_by_default_only_the_version_itself_may_answer() -> None:
    """However many versions there were before."""
    assert _targets(KnownPolicy(adapter(2), adapter(1))) == [(adapter(2).id, None)]


def test_a_tenant_may_let_the_last_version_answer_after_the_wait() -> None:
    """First the version, then the one before it, each within the tenant's own patience."""
    rule = ColdStart(wait_ms=1500, previous=True)
    assert _targets(KnownPolicy(adapter(2), adapter(1), rule)) == [(adapter(2).id, 1500), (adapter(1).id, 1500)]
    assert _targets(KnownPolicy(adapter(2), None, rule)) == [(adapter(2).id, 1500)]
    assert _targets(KnownPolicy(adapter(2), adapter(2), rule)) == [(adapter(2).id, 1500)]


def test_without_a_version_nobody_answers() -> None:
    """An alias that means nothing is 404, also when it meant something once: never a guess, never the base model."""
    with pytest.raises(NotFound):
        _targets(KnownPolicy(None, adapter(1), ColdStart(previous=True)))
