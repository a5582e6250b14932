"""The accounts of a request as Redis knows them: their keys, and their limits as one JSON list.

All keys of a tenant share the hash tag `{tenant}`, so that a script's keys lie in one slot of a Redis Cluster. A
principal's accounts are frozen and shared by all of its requests, so their rendering is made once and kept.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from app.types import Account, AccountKind, BreakerPolicy, LimitRule, Limits, Principal

REMEMBERED = 4096
IDLE_TTL_SECONDS = 40 * 86_400  # users and bearers of tokens come by the million; a month's budget outlives its month
_NAMES = {
    "requests_per_minute": "rpm",
    "requests_burst": "rburst",
    "tokens_per_minute": "tpm",
    "tokens_burst": "tburst",
    "tokens_per_day": "tpd",
    "concurrent_requests": "most",
    "budget_day_microusd": "day",
    "budget_week_microusd": "week",
    "budget_month_microusd": "month",
    "budget_total_microusd": "total",
    "spend_per_minute_microusd": "cap",
    "spend_surge_percent": "surge",
}


@dataclass(frozen=True, slots=True)
class Rendered:
    """Keys and limits of some accounts, in the same order; `has_budget`: money of any of them can end."""

    accounts: tuple[Account, ...]
    keys: tuple[str, ...]
    limits: bytes
    has_budget: bool


class Accounts:
    """Renders accounts, and remembers what it rendered for as long as the same tuple comes back."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, Rendered] = OrderedDict()

    def render(self, tenant_id: str, accounts: tuple[Account, ...]) -> Rendered:
        """The rendering of these accounts of one tenant."""
        known = self._known.get(id(accounts))
        if known is not None and known.accounts is accounts:
            return known
        made = rendered(tenant_id, accounts)
        self._known[id(accounts)] = made  # holds the tuple as well, so its id names no other one meanwhile
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return made


def accounts_of(principal: Principal, route: str, user: str | None) -> tuple[Account, ...]:
    """Every account that a call of this route is charged to; `user` is the caller's user as a keyed hash."""
    if not principal.rules:
        return principal.accounts
    names = {account.kind: account.id for account in principal.accounts}
    if user is not None:
        names[AccountKind.USER] = user
    more = {
        (rule.kind, rule.route): Account(rule.kind, names[rule.kind], rule.limits, rule.route)
        for rule in sorted(principal.rules, key=_most_special_last)
        if rule.route in (None, route) and rule.kind in names and rule.subject in (None, names[rule.kind])
    }
    return (*principal.accounts, *more.values())


def _most_special_last(rule: LimitRule) -> bool:
    """One named subject's rule goes before the rule for each of its kind."""
    return rule.subject is not None


def rendered(tenant_id: str, accounts: tuple[Account, ...]) -> Rendered:
    """Keys and limits of these accounts."""
    limits = msgspec.json.encode([_limits(account) for account in accounts])
    keys = tuple(account_key(tenant_id, account) for account in accounts)
    return Rendered(accounts, keys, limits, any(_has_budget(account.limits) for account in accounts))


def _has_budget(limits: Limits) -> bool:
    budgets = (
        limits.budget_day_microusd, limits.budget_week_microusd, limits.budget_month_microusd,
        limits.budget_total_microusd,
    )  # fmt: skip
    return limits.breaker != BreakerPolicy.ALERT and any(budget is not None for budget in budgets)


def reservation_key(tenant_id: str, request_id: str) -> str:
    """Where a request's reservation is."""
    return f"tg:{{{tenant_id}}}:res:{request_id}"


def leases_key(tenant_id: str) -> str:
    """Where the tenant's leases are, by the millisecond at which they run out."""
    return f"tg:{{{tenant_id}}}:leases"


def account_key(tenant_id: str, account: Account) -> str:
    """Where an account's counters are."""
    scope = "" if account.route is None else f"@{account.route}"
    return f"tg:{{{tenant_id}}}:acct:{account.kind.value}:{account.id}{scope}"


def _limits(account: Account) -> dict[str, str | int]:
    limits = account.limits
    made: dict[str, str | int] = {"kind": account.kind.value, "id": account.id}
    if account.route is not None:
        made["route"] = account.route
    made |= {short: value for name, short in _NAMES.items() if (value := getattr(limits, name)) is not None}
    if limits.breaker not in (None, BreakerPolicy.BLOCK):
        made["policy"] = str(limits.breaker)
    if account.kind in (AccountKind.USER, AccountKind.KEY) and limits.budget_total_microusd is None:
        made["ttl"] = IDLE_TTL_SECONDS
    return made
