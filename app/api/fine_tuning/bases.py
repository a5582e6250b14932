"""Who trains a model that a tenant names: our own trainers for a pool's base model, a provider for a provider's."""

from __future__ import annotations

from dataclasses import dataclass

from app.api.fine_tuning.services import TrainingServices
from app.errors import Forbidden, InvalidRequest, NotFound
from app.types import AdapterTarget, Principal, ProviderTarget, Route, TargetSpec


@dataclass(frozen=True, slots=True)
class Base:
    """What is trained, and where the result is served: on a pool, or by a provider."""

    model: str
    pool: str | None = None
    provider: str | None = None


def base_of(services: TrainingServices, principal: Principal, model: str) -> Base:
    """The base behind this name: a pool's base model, or a route to one or to a provider's model.

    Raises Forbidden, NotFound (the same for what is absent and what is another tenant's), InvalidRequest when it cannot
    be fine-tuned here, Unavailable for a pool without a price.
    """
    if principal.routes is not None and model not in principal.routes:
        raise Forbidden("This key may not use this model.", param="model", code="model_not_allowed")
    served = sorted(name for name, pool in services.pools.items() if pool.base_model == model)
    if served:
        return _on_pool(services, served[0])
    route = services.policy().route(principal.tenant_id, model)
    if route is None:
        raise NotFound(
            "The model does not exist or you do not have access to it. GET /v1/models lists yours.",
            param="model",
            code="model_not_found",
        )
    return _of_target(services, _only_target(route))


def _only_target(route: Route) -> TargetSpec:
    targets = {variant.target for variant in route.variants if variant.enabled and variant.weight}
    if len(targets) != 1:
        raise InvalidRequest("model: it is a mixture of several models; name one base model.", param="model")
    return targets.pop()


def _of_target(services: TrainingServices, target: TargetSpec) -> Base:
    if isinstance(target, AdapterTarget) and target.pool in services.pools:
        if target.adapter is not None:
            base = services.pools[target.pool].base_model
            raise InvalidRequest(f"model: it is fine-tuned already; name its base model, {base}.", param="model")
        return _on_pool(services, target.pool)
    if isinstance(target, ProviderTarget):
        if target.provider not in services.providers:
            raise InvalidRequest(
                f"model: it is served by the provider {target.provider}, and no trainer of this gateway fine-tunes"
                " there. Name a base model of a pool, or ask your administrator to set providers[].fine_tuning.",
                param="model",
            )
        services.admin.prices.price(target.provider, target.model)
        return Base(target.model, provider=target.provider)
    raise InvalidRequest("model: it cannot be fine-tuned.", param="model")


def _on_pool(services: TrainingServices, name: str) -> Base:
    model = services.pools[name].base_model
    services.admin.prices.price(name, model)
    return Base(model, pool=name)
