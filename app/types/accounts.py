"""Who is charged, who calls, and what both may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.types.words import AccountKind, BreakerPolicy, Operation


@dataclass(frozen=True, slots=True)
class Limits:
    """What one account may use; `None` means no limit of that kind.

    A burst is what may come at once (a whole minute's worth unless said). The breaker opens when a budget is spent, or
    when a minute's spend passes `spend_per_minute_microusd` or `spend_surge_percent` of the last hour's usual minute.
    """

    requests_per_minute: int | None = None
    requests_burst: int | None = None
    tokens_per_minute: int | None = None
    tokens_burst: int | None = None
    tokens_per_day: int | None = None
    concurrent_requests: int | None = None
    budget_day_microusd: int | None = None
    budget_week_microusd: int | None = None
    budget_month_microusd: int | None = None
    budget_total_microusd: int | None = None
    spend_per_minute_microusd: int | None = None
    spend_surge_percent: int | None = None
    breaker: BreakerPolicy | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """One holder of limits that a request is charged to; with `route`, for its calls of that route only."""

    kind: AccountKind
    id: str
    limits: Limits
    route: str | None = None


@dataclass(frozen=True, slots=True)
class LimitRule:
    """Limits of a user, or of anybody for one route; `subject=None` is each of that kind, on its own.

    A user's subject is its keyed hash, never its name.
    """

    kind: AccountKind
    subject: str | None
    route: str | None
    limits: Limits


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling, proved: tenant, team, key, what it may do, and every account it is charged to.

    `rules` are the further limits that may concern its calls, by user and by route.
    """

    tenant_id: str
    team_id: str | None
    key_id: str
    operations: frozenset[Operation]
    routes: frozenset[str] | None
    accounts: tuple[Account, ...]
    rules: tuple[LimitRule, ...] = ()
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)  # own keys, by provider


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A stored key as the policy snapshot holds it; the secret itself is nowhere, only its SHA-256."""

    principal: Principal
    expires_at: float | None = None
    revoked: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
