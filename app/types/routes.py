"""Public model names and what is behind them, as they are configured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProviderTarget:
    """A model of a configured OpenAI-compatible provider."""

    provider: str
    model: str


@dataclass(frozen=True, slots=True)
class AdapterTarget:
    """An adapter of the *calling* tenant on a vLLM pool, named by alias; `adapter=None` is the pool's base model."""

    pool: str
    adapter: str | None = None
    alias: str = "champion"


@dataclass(frozen=True, slots=True)
class EmbeddedTarget:
    """The sentence-embedding model inside the gateway (all-MiniLM-L6-v2)."""

    model: str = "minilm"


TargetSpec = ProviderTarget | AdapterTarget | EmbeddedTarget


@dataclass(frozen=True, slots=True)
class Variant:
    """One arm of a route; weight 0 or `enabled=False` (the kill switch) takes no new traffic."""

    name: str
    weight: int
    target: TargetSpec
    fallback: TargetSpec | None = None
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """What a route keeps; off unless asked for."""

    exact: bool = False
    semantic: bool = False
    threshold: float = 0.84
    ttl_seconds: int = 3600
    verify_share: float = 0.01
    false_hit_budget: float = 0.001


@dataclass(frozen=True, slots=True)
class Route:
    """A public model name; `tenant_id=None` is shared by all tenants (its adapter still belongs to the caller)."""

    name: str
    tenant_id: str | None
    variants: tuple[Variant, ...]
    cache: CachePolicy = CachePolicy()
    enabled: bool = True
    created_at: int = 0
    degrade_to: str | None = None  # the cheaper variant, for callers whose cost breaker is open
