"""The values that travel between the stages of a request: frozen, without behaviour that does I/O.

Units are in the names. Money is always whole micro-dollars (1 USD = 1_000_000), tokens are whole numbers,
wall-clock instants are seconds since the Unix epoch. Nothing here imports another package of the gateway.
What every request makes anew with many fields is a msgspec struct: made in an eighth of a frozen dataclass's time.
"""

from __future__ import annotations

from app.types.accounts import Account, KeyRecord, LimitRule, Limits, Principal
from app.types.adapters import AdapterVersion, ColdStart
from app.types.answers import CachedAnswer, LedgerEntry, Reply
from app.types.calls import Call, Choice, RateLimitState, Request, Target
from app.types.objects import Stored
from app.types.prices import Price, PriceTier, Usage
from app.types.routes import AdapterTarget, CachePolicy, EmbeddedTarget, ProviderTarget, Route, TargetSpec, Variant
from app.types.upstreams import Endpoint, Pool, PoolStatus, Provider, ReplicaStatus
from app.types.words import AccountKind, BreakerPolicy, CacheStatus, Operation, Outcome, Word

__all__ = [
    "Account",
    "AccountKind",
    "AdapterTarget",
    "AdapterVersion",
    "BreakerPolicy",
    "CachePolicy",
    "CacheStatus",
    "CachedAnswer",
    "Call",
    "Choice",
    "ColdStart",
    "EmbeddedTarget",
    "Endpoint",
    "KeyRecord",
    "LedgerEntry",
    "LimitRule",
    "Limits",
    "Operation",
    "Outcome",
    "Pool",
    "PoolStatus",
    "Price",
    "PriceTier",
    "Principal",
    "Provider",
    "ProviderTarget",
    "RateLimitState",
    "ReplicaStatus",
    "Reply",
    "Request",
    "Route",
    "Stored",
    "Target",
    "TargetSpec",
    "Usage",
    "Variant",
    "Word",
]
