"""Limits and budgets over Redis: one script decides for key, team and tenant together and holds what the call may cost.

Race removed: checking and then counting. `reserve.lua` takes every limit or none, so racing requests cannot pass a
budget between them. Invariants: spent plus held never exceeds a budget at admission; every reservation is settled
exactly once, by its own settlement or by its lease running out, which charges the estimate (`lost`) rather than
forgetting it. All keys of a request share the hash tag `{tenant}` and the clock is Redis' own.

Fail mode: closed. Without Redis a call is refused with 503, since no budget can be promised; a settlement that cannot
be written is tried again until its lease would have paid it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files

import structlog
from redis.exceptions import ResponseError

from app.admission.estimate import OutputEstimator
from app.admission.headers import ratelimit_headers, retry_headers
from app.admission.pricing import dearest_microusd
from app.errors import QuotaExhausted, RateLimited, Unavailable
from app.storage.ledger import encode, stream_key
from app.storage.redis import RedisDown, RedisStore, Script
from app.types import (
    Account,
    Call,
    Choice,
    LedgerEntry,
    Outcome,
    Principal,
    RateLimitState,
    Usage,
)

EXPIRE_BATCH = 200
RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
NAMES = {
    "budget_day": "day budget (micro-dollars)",
    "budget_month": "month budget (micro-dollars)",
    "concurrent_requests": "concurrent requests",
    "requests_per_minute": "requests per minute",
    "tokens_per_minute": "tokens per minute",
    "tokens_per_day": "tokens per day",
}

_logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AdmissionConfig:
    """How long and how much is held."""

    lease_seconds: int = 900
    default_output_tokens: int = 256


class RedisAdmission:
    """Implements `app.interfaces.Admission`."""

    def __init__(
        self,
        store: RedisStore,
        config: AdmissionConfig = AdmissionConfig(),
        *,
        on_refusal: Callable[[str, str], None] = lambda _account, _limit: None,
    ) -> None:
        scripts = files("app.admission") / "scripts"
        common = (scripts / "common.lua").read_text(encoding="utf-8")
        self._reserve, self._settle, self._expire = (
            Script(common + (scripts / f"{name}.lua").read_text(encoding="utf-8"))
            for name in ("reserve", "settle", "expire")
        )
        self._store = store
        self._config = config
        self._on_refusal = on_refusal
        self._estimator = OutputEstimator()
        self._settling: set[asyncio.Task[None]] = set()

    async def reserve(self, principal: Principal, call: Call, choice: Choice, request_id: str) -> HeldReservation:
        """Hold what the call may cost; raises RateLimited, QuotaExhausted or Unavailable."""
        held = self._estimate(principal, call, choice)
        cost = dearest_microusd((target.price for target in choice.targets), held)
        tenant = principal.tenant_id
        lost = _lost(principal, call, choice, request_id, held, cost)
        keys = [_reservation(tenant, request_id), _leases(tenant), stream_key(tenant)]
        keys += [_account(tenant, account) for account in principal.accounts]
        lease_ms = self._config.lease_seconds * 1000
        args: list[str | bytes | int] = [
            request_id, held.total_tokens, cost, lease_ms, encode(lost), _reservation(tenant, ""),
        ]  # fmt: skip
        for account in principal.accounts:
            args += _limits(account)
        try:
            reply = await self._store.run(self._reserve, keys, args)
        except (RedisDown, ResponseError) as exc:
            raise Unavailable("Limits cannot be checked right now; try again shortly.") from exc
        if reply[0] == 0:
            self._refuse(principal.accounts, reply)
        return HeldReservation(self, tenant, request_id, _state(reply), cost, held.total_tokens)

    async def settle(self, tenant: str, request_id: str, entry: LedgerEntry) -> None:
        """Charge the truth; survives the caller's cancellation, and keeps trying while Redis is away."""
        tokens = entry.prompt_tokens + entry.completion_tokens
        if entry.outcome is Outcome.OK and entry.completion_tokens:
            self._estimator.learn(_learning(entry.tenant_id, entry.route), entry.completion_tokens)
        keys = [_reservation(tenant, request_id), _leases(tenant), stream_key(tenant)]
        args: list[str | bytes | int] = [request_id, tokens, entry.cost_microusd, encode(entry)]
        try:
            await self._store.run(self._settle, keys, args)
        except (RedisDown, asyncio.CancelledError) as exc:
            # Whether the script ran is unknown; it is idempotent, so it is simply run again, by a task of our own.
            task = asyncio.create_task(self._settle_for_sure(keys, args))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)
            if isinstance(exc, asyncio.CancelledError):
                raise

    async def sweep(self, tenants: Sequence[str]) -> int:
        """Charge expired leases of tenants that send nothing; returns how many there were."""
        found = 0
        for tenant in tenants:
            keys = [_leases(tenant), stream_key(tenant)]
            found += await self._store.run(self._expire, keys, [_reservation(tenant, ""), EXPIRE_BATCH])
        return found

    async def drain(self) -> None:
        """Wait for the settlements that still run."""
        if self._settling:
            await asyncio.wait(self._settling, timeout=sum(RETRY_SECONDS))

    async def _settle_for_sure(self, keys: Sequence[str], args: Sequence[str | bytes | int]) -> None:
        deadline = asyncio.get_running_loop().time() + self._config.lease_seconds
        attempt = 0
        while True:
            try:
                await self._store.run(self._settle, keys, args)
            except RedisDown:
                if asyncio.get_running_loop().time() > deadline:
                    _logger.warning("settlement_given_up", request_id=args[0], then="its lease pays the estimate")
                    return
                await asyncio.sleep(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])
                attempt += 1
            else:
                return

    def _estimate(self, principal: Principal, call: Call, choice: Choice) -> Usage:
        ceiling = self._config.default_output_tokens if call.max_tokens is None else call.max_tokens
        if ceiling == 0:
            return Usage(call.prompt_tokens_estimate, 0, estimated=True)
        one = self._estimator.estimate(_learning(principal.tenant_id, choice.route.name), ceiling)
        return Usage(call.prompt_tokens_estimate, one * call.choices, estimated=True)

    def _refuse(self, accounts: Sequence[Account], reply: Sequence[bytes | int]) -> None:
        account = accounts[int(reply[1]) - 1]
        limit = reply[2].decode() if isinstance(reply[2], bytes) else str(reply[2])
        wait_ms, allowed = int(reply[3]), int(reply[4])
        self._on_refusal(account.kind.value, limit)
        name = f"{NAMES[limit]} of this {account.kind.value}"
        if limit.startswith("budget"):
            raise QuotaExhausted(f"The {name} is spent: {allowed} allowed, {int(reply[5])} spent or held.")
        headers = list(retry_headers(wait_ms))
        if limit in ("requests_per_minute", "tokens_per_minute"):
            headers += ratelimit_headers(_exhausted(limit, allowed, wait_ms))
        message = f"Rate limit reached for {name}: limit {allowed}, try again in {wait_ms / 1000:.3f} s."
        raise RateLimited(message, headers=tuple(headers))


@dataclass(frozen=True, slots=True)
class HeldReservation:
    """Implements `app.interfaces.Reservation`."""

    admission: RedisAdmission
    tenant_id: str
    request_id: str
    state: RateLimitState
    reserved_microusd: int
    reserved_tokens: int

    async def settle(self, entry: LedgerEntry) -> None:
        """Charge the truth and write the entry, once."""
        await self.admission.settle(self.tenant_id, self.request_id, entry)


def _reservation(tenant: str, request_id: str) -> str:
    return f"tg:{{{tenant}}}:res:{request_id}"


def _leases(tenant: str) -> str:
    return f"tg:{{{tenant}}}:leases"


def _account(tenant: str, account: Account) -> str:
    return f"tg:{{{tenant}}}:acct:{account.kind.value}:{account.id}"


def _learning(tenant: str, route: str) -> str:
    return f"{tenant}/{route}"


def _limits(account: Account) -> list[int]:
    limits = account.limits
    values = (
        limits.requests_per_minute, limits.tokens_per_minute, limits.tokens_per_day,
        limits.concurrent_requests, limits.budget_day_microusd, limits.budget_month_microusd,
    )  # fmt: skip
    return [-1 if value is None else value for value in values]


def _state(reply: Sequence[int]) -> RateLimitState:
    values = [None if value < 0 else int(value) for value in reply[1:]]
    return RateLimitState(*values)


def _exhausted(limit: str, allowed: int, wait_ms: int) -> RateLimitState:
    if limit == "requests_per_minute":
        return RateLimitState(limit_requests=allowed, remaining_requests=0, reset_requests_ms=60_000)
    return RateLimitState(limit_tokens=allowed, remaining_tokens=0, reset_tokens_ms=max(wait_ms, 60_000))


def _lost(principal: Principal, call: Call, choice: Choice, request_id: str, held: Usage, cost: int) -> LedgerEntry:
    target = choice.targets[0]
    return LedgerEntry(
        request_id=request_id,
        tenant_id=principal.tenant_id,
        team_id=principal.team_id,
        key_id=principal.key_id,
        user_hash=None,
        operation=call.operation,
        route=choice.route.name,
        variant=choice.variant,
        upstream=target.upstream,
        model=target.model,
        adapter_version=target.adapter.id if target.adapter else None,
        prompt_tokens=held.prompt_tokens,
        completion_tokens=held.completion_tokens,
        cached_tokens=0,
        estimated=True,
        cost_microusd=cost,
        saved_microusd=0,
        outcome=Outcome.LOST,
        status=0,
        started_at=time.time(),
        latency_ms=0,
        first_byte_ms=None,
    )
