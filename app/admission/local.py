"""What one gateway may admit on its own while Redis is away: its share of the rates, and a small sum of money.

Rates fail open, to this gateway's share (the limit divided by the number of gateways); budgets and daily tokens fail
closed but for an allowance, so the overspend of an outage is at most `gateways * allowance` for each account. What was
admitted here is charged in Redis as soon as it answers again, and the allowance comes back no sooner than a minute
after it was first used. Pure but for the clock: nothing here does I/O.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from app.admission.refusal import refusal
from app.errors import Unavailable
from app.types import Account, RateLimitState

RENEWED_SECONDS = 60.0
MAX_ACCOUNTS = 100_000  # kept here until Redis is back
Place = tuple[str, str, str, str | None]


@dataclass(frozen=True, slots=True)
class LocalConfig:
    """How many gateways share the limits, and what each may spend of any budget without Redis, in micro-dollars."""

    gateways: int = 1
    allowance_microusd: int = 50_000


@dataclass(slots=True)
class _Share:
    """One account here: levels of its two buckets, what runs, what was spent of the allowance."""

    requests: float = 0.0
    tokens: float = 0.0
    since: float = 0.0
    running: int = 0
    spent: int = 0


@dataclass(slots=True)
class LocalShare:
    """Decides while Redis is away."""

    config: LocalConfig = LocalConfig()
    clock: Callable[[], float] = time.monotonic
    running: int = 0
    _shares: dict[Place, _Share] = field(default_factory=dict)
    _began: float | None = None

    def admit(self, tenant_id: str, accounts: Sequence[Account], tokens: int, cost: int) -> RateLimitState:
        """Take a share of every account, or raise: Unavailable where money would be promised, RateLimited."""
        now = self.clock()
        shares = [self._share(tenant_id, account, now) for account in accounts]
        for account, share in zip(accounts, shares, strict=True):
            self._check(account, share, tokens, cost)
        for share in shares:
            share.requests, share.tokens = share.requests + 1, share.tokens + tokens
            share.running, share.spent = share.running + 1, share.spent + cost
        self.running += 1
        self._began = now if self._began is None else self._began
        return RateLimitState()

    def extend(self, tenant_id: str, accounts: Sequence[Account], tokens: int, cost: int) -> bool:
        """Let a running answer grow: rates run into debt, as in Redis; False where the allowance ends."""
        now = self.clock()
        try:
            shares = [self._share(tenant_id, account, now) for account in accounts]
        except Unavailable:
            return False
        if not all(self._affords(one, share, cost) for one, share in zip(accounts, shares, strict=True)):
            return False
        for share in shares:
            share.tokens, share.spent = share.tokens + tokens, share.spent + cost
        self._began = now if self._began is None else self._began
        return True

    def done(self, tenant_id: str, accounts: Sequence[Account]) -> None:
        """A call that was admitted here has ended."""
        self.running -= 1
        for account in accounts:
            share = self._shares.get(_place(tenant_id, account))
            if share is not None:
                share.running = max(0, share.running - 1)

    def redis_answers(self) -> None:
        """Redis decides again: what was used here may be forgotten once it is old enough."""
        if self._began is not None and self.clock() - self._began >= RENEWED_SECONDS:
            self._began = None
            self._shares.clear()

    def _check(self, account: Account, share: _Share, tokens: int, cost: int) -> None:
        limits, gateways = account.limits, self.config.gateways
        if not self._affords(account, share, cost):
            raise Unavailable("Budgets cannot be checked right now; try again shortly.")
        most = limits.concurrent_requests
        if most is not None and share.running + 1 > _part(most, gateways):
            raise refusal(account, "concurrent_requests", wait_ms=1000, allowed=most, used=share.running)
        for name, limit, burst, level, add in (
            ("requests_per_minute", limits.requests_per_minute, limits.requests_burst, share.requests, 1),
            ("tokens_per_minute", limits.tokens_per_minute, limits.tokens_burst, share.tokens, tokens),
        ):
            if limit is None:
                continue
            over = level + add - _part(burst or limit, gateways)
            if over > 0:
                wait_ms = round(over * 60_000 * gateways / limit) if limit else 60_000
                raise refusal(account, name, wait_ms=wait_ms, allowed=limit, used=round(level))

    def _affords(self, account: Account, share: _Share, cost: int) -> bool:
        limits = account.limits
        budgets = (
            limits.budget_day_microusd, limits.budget_week_microusd, limits.budget_month_microusd,
            limits.budget_total_microusd, limits.tokens_per_day,
        )  # fmt: skip
        return all(one is None for one in budgets) or share.spent + cost <= self.config.allowance_microusd

    def _share(self, tenant_id: str, account: Account, now: float) -> _Share:
        place = _place(tenant_id, account)
        if place not in self._shares and len(self._shares) >= MAX_ACCOUNTS:
            raise Unavailable("Redis is away and too many accounts are waiting for it; try again shortly.")
        share = self._shares.setdefault(place, _Share(since=now))
        minutes = max(0.0, now - share.since) / 60 / self.config.gateways
        share.requests = max(0.0, share.requests - minutes * (account.limits.requests_per_minute or 0))
        share.tokens = max(0.0, share.tokens - minutes * (account.limits.tokens_per_minute or 0))
        share.since = now
        return share


def _place(tenant_id: str, account: Account) -> Place:
    return tenant_id, account.kind.value, account.id, account.route


def _part(limit: int, gateways: int) -> int:
    """A gateway's share, rounded up: a limit of one a minute must not become none."""
    return -(-limit // gateways)
