"""A route as JSON: what the admin API takes, what SQL keeps, and the frozen `Route` that requests meet."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.types import AdapterTarget, CachePolicy, EmbeddedTarget, ProviderTarget, Route, TargetSpec, Variant

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Small letters, digits, hyphens.")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TargetJson(_Strict):
    """One of: a provider's model, a pool (its base model or the caller's own adapter), the embedded model."""

    provider: str | None = None
    model: str | None = None
    pool: str | None = None
    adapter: Name | None = None
    alias: Name = "champion"
    embedded: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> TargetJson:
        kinds = [name for name in ("provider", "pool", "embedded") if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError("expected exactly one of: provider, pool, embedded")
        if (self.provider is None) != (self.model is None):
            raise ValueError("expected provider and model together")
        return self

    def value(self) -> TargetSpec:
        """The same as a plain value."""
        if self.provider is not None and self.model is not None:
            return ProviderTarget(self.provider, self.model)
        if self.pool is not None:
            return AdapterTarget(self.pool, self.adapter, self.alias)
        return EmbeddedTarget(self.embedded or "minilm")


class VariantJson(_Strict):
    """One arm of a route."""

    name: Name
    weight: int = Field(ge=0, le=1_000_000)
    target: TargetJson
    fallback: TargetJson | None = None
    enabled: bool = True


class CacheJson(_Strict):
    """What the route keeps; off unless asked for."""

    exact: bool = False
    semantic: bool = False
    threshold: float = Field(default=0.84, ge=0.5, le=1.0)
    ttl_seconds: int = Field(default=3600, ge=1, le=30 * 86_400)
    verify_share: float = Field(default=0.01, ge=0, le=1)
    false_hit_budget: float = Field(default=0.001, gt=0, le=0.1)


class RouteJson(_Strict):
    """A whole route."""

    variants: list[VariantJson] = Field(min_length=1, max_length=20)
    cache: CacheJson = CacheJson()
    enabled: bool = True
    degrade_to: Name | None = None

    @model_validator(mode="after")
    def _some_traffic(self) -> RouteJson:
        if not any(variant.weight for variant in self.variants):
            raise ValueError("expected at least one variant with a weight above 0")
        if len({variant.name for variant in self.variants}) != len(self.variants):
            raise ValueError("expected variants with different names")
        if self.degrade_to is not None and self.degrade_to not in {variant.name for variant in self.variants}:
            raise ValueError("degrade_to: expected the name of one of the variants")
        return self

    def targets(self) -> list[TargetJson]:
        """Every target named, fallbacks too."""
        return [target for v in self.variants for target in (v.target, v.fallback) if target is not None]

    def value(self, name: str, tenant_id: str | None, created_at: int) -> Route:
        """The same as a plain value."""
        variants = tuple(
            Variant(
                name=variant.name,
                weight=variant.weight,
                target=variant.target.value(),
                fallback=variant.fallback.value() if variant.fallback else None,
                enabled=variant.enabled,
            )
            for variant in self.variants
        )
        cache = CachePolicy(**self.cache.model_dump())
        return Route(name, tenant_id, variants, cache, self.enabled, created_at, self.degrade_to)
