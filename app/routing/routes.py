"""From a public model name to a variant and the targets it may use, first to last.

An adapter target names an alias of the *calling* tenant; it becomes the exact version the alias points at now. What
cannot be resolved is a clear 404: a call never slides to the base model or to another tenant's adapter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from app.errors import Forbidden, InvalidRequest, NotFound, Unavailable
from app.interfaces import Policy
from app.routing.flags import pick
from app.routing.prices import FREE, PriceList
from app.types import (
    AdapterTarget,
    BreakerPolicy,
    Call,
    Choice,
    EmbeddedTarget,
    Operation,
    Principal,
    Route,
    Target,
    TargetSpec,
    Variant,
)


@dataclass(frozen=True, slots=True)
class Router:
    """The routing stage: reads the last known policy, holds no state of its own."""

    policy: Callable[[], Policy]
    prices: PriceList
    base_models: dict[str, str]

    def choose(self, principal: Principal, call: Call) -> Choice:
        """The variant and targets for this call; raises NotFound, Forbidden, InvalidRequest or Unavailable."""
        policy = self.policy()
        if call.operation not in principal.operations:
            raise Forbidden(f"This key may not use {call.operation.value}.")
        route = policy.route(principal.tenant_id, call.route)
        if route is None:
            raise NotFound(
                "The model does not exist or you do not have access to it. GET /v1/models lists yours.",
                param="model",
                code="model_not_found",
            )
        if principal.routes is not None and call.route not in principal.routes:
            raise Forbidden("This key may not use this model.", param="model", code="model_not_allowed")
        if not route.enabled:
            raise Unavailable("This model is switched off at the moment.", retry_after_seconds=30)
        variant = pick(route.variants, flag=route.name, subject=subject(principal, call))
        if variant is None:
            raise Unavailable("Every variant of this model is switched off.", retry_after_seconds=30)
        chosen = self._choice(policy, principal, call, route, variant)
        if route.degrade_to in (None, variant.name) or not may_degrade(principal):
            return chosen
        cheaper = next((other for other in route.variants if other.name == route.degrade_to and other.enabled), None)
        if cheaper is None:
            return chosen
        return msgspec.structs.replace(chosen, cheaper=self._choice(policy, principal, call, route, cheaper))

    def _choice(self, policy: Policy, principal: Principal, call: Call, route: Route, variant: Variant) -> Choice:
        specs = (variant.target,) if variant.fallback is None else (variant.target, variant.fallback)
        targets = tuple(target for spec in specs for target in self._targets(policy, principal, route, spec))
        _fits(call, targets)
        return Choice(route=route, variant=variant.name, targets=targets)

    def _targets(self, policy: Policy, principal: Principal, route: Route, spec: TargetSpec) -> list[Target]:
        """What the spec names; where the tenant allows it, the adapter's previous version after it."""
        target = self._resolve(policy, principal, route, spec)
        if target.adapter is None or not isinstance(spec, AdapterTarget) or spec.adapter is None:
            return [target]
        rule = policy.cold_start(principal.tenant_id)
        target = replace(target, cold_wait_ms=rule.wait_ms)
        before = policy.previous_adapter(principal.tenant_id, spec.adapter, spec.alias) if rule.previous else None
        if before is None or before.id == target.model:
            return [target]
        return [target, replace(target, model=before.id, adapter=before)]

    def _resolve(self, policy: Policy, principal: Principal, route: Route, spec: TargetSpec) -> Target:
        if isinstance(spec, EmbeddedTarget):
            price = self.prices.models.get(f"embedded/{spec.model}", FREE)
            return Target(upstream="embedded", model=spec.model, price=price, is_embedded=True)
        if not isinstance(spec, AdapterTarget):
            price = self.prices.price(spec.provider, spec.model)
            own = principal.credentials.get(spec.provider)
            if own == "":
                raise Unavailable(f"The key kept for '{spec.provider}' cannot be opened here.", retry_after_seconds=30)
            return Target(upstream=spec.provider, model=spec.model, price=price, credential=own)
        if spec.adapter is None:
            model = self.base_models.get(spec.pool)
            if model is None:
                raise Unavailable(f"The pool '{spec.pool}' is not configured here.", retry_after_seconds=30)
            price = self.prices.price(spec.pool, model)
            return Target(upstream=spec.pool, model=model, price=price, tenant_id=principal.tenant_id, is_pool=True)
        version = policy.adapter(principal.tenant_id, spec.adapter, spec.alias)
        if version is None:
            missing = f"{spec.adapter}@{spec.alias}"
            message = f"The model '{route.name}' needs the adapter '{missing}', which this tenant does not have."
            raise NotFound(message, param="model", code="model_not_found")
        price = self.prices.price(spec.pool, spec.adapter)
        tenant_id = principal.tenant_id
        return Target(
            upstream=spec.pool, model=version.id, price=price, adapter=version, tenant_id=tenant_id, is_pool=True
        )


def subject(principal: Principal, call: Call) -> str:
    """Whom a choice sticks to: the caller's user if it names one, else its key; never shared between tenants."""
    return f"{principal.tenant_id}\x00{call.user}" if call.user else f"{principal.tenant_id}\x00\x00{principal.key_id}"


def may_degrade(principal: Principal) -> bool:
    """Whether any limits that this caller meets ask for the cheaper variant when their breaker is open."""
    limits = (*(account.limits for account in principal.accounts), *(rule.limits for rule in principal.rules))
    return any(one.breaker == BreakerPolicy.DEGRADE for one in limits)


def _fits(call: Call, targets: tuple[Target, ...]) -> None:
    embedded = any(target.is_embedded for target in targets)
    if embedded and call.operation is not Operation.EMBEDDINGS:
        raise InvalidRequest("This model only makes embeddings; call /v1/embeddings.", param="model")
