"""Limits and budgets over Redis: one script decides for every account together and holds what the call may cost.

Race removed: checking and then counting. `reserve.lua` takes every limit or none, so racing requests cannot pass a
budget between them. Invariants: spent plus held never exceeds a budget at admission; every reservation ends exactly
once: settled with the truth, taken back when its caller never learned of it, or charged its estimate (`lost`) when its
lease runs out. All keys of a request share the hash tag `{tenant}` and the clock is Redis' own.

Fail mode: without Redis `LocalShare` decides, if there is one: rates open to a share, budgets closed but for a small
allowance. Otherwise closed: a call is refused with 503, since no budget can be promised. What must still be said to
Redis (a settlement, a release) is said again, by tasks of our own, until it has been heard; the scripts are idempotent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import structlog
from redis.exceptions import ResponseError

from app.admission.accounts import Accounts, Rendered, account_key, accounts_of, leases_key, reservation_key
from app.admission.estimate import OutputEstimator
from app.admission.local import LocalShare
from app.admission.lost import lost_entry
from app.admission.pricing import dearest_microusd
from app.admission.refusal import refusal
from app.errors import GatewayError, Unavailable
from app.storage.ledger import encode, stream_key
from app.storage.redis import RedisDown, RedisStore, RedisUnreached, Script
from app.types import Account, AccountKind, Call, Choice, LedgerEntry, Limits, Outcome, Principal, RateLimitState, Usage

EXPIRE_BATCH = 200
AGAIN_SECONDS = 0.05  # between two attempts on a connection that comes and goes
REFUSED_SECONDS = 1.0
DRAIN_SECONDS = 5.0
MAX_PENDING = 10_000  # charges that wait for Redis in memory; no more is admitted without it
UNKNOWN, WAS_LOST = 3, 2
TAKEN_BACK, REFUSED = 2, 0
Arguments = list[str | bytes | int | float]
DEGRADED = 7  # its place in a reply

_logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AdmissionConfig:
    """How long and how much is held."""

    lease_seconds: int = 900
    default_output_tokens: int = 256


@dataclass(frozen=True, slots=True)
class Outstanding:
    """What a tenant holds right now in all gateways together."""

    reservations: int
    microusd: int


@dataclass(frozen=True, slots=True)
class _Ask:
    """One question to `reserve.lua`, and what is written down if nobody settles it."""

    keys: list[str]
    args: Arguments
    accounts: Rendered
    tokens: int
    lost: LedgerEntry
    cheaper: LedgerEntry | None


@dataclass(slots=True)
class HeldReservation:
    """Implements `app.interfaces.Reservation`; `entry` is what its lease would charge."""

    admission: RedisAdmission
    accounts: Rendered
    choice: Choice
    state: RateLimitState
    entry: LedgerEntry
    reserved_microusd: int
    reserved_tokens: int
    is_local: bool = False

    async def extend(self, tokens: int, cost_microusd: int) -> bool:
        """Hold more while the call runs; False where a budget or the day's tokens end."""
        return await self.admission.extend(self, tokens, cost_microusd)

    async def settle(self, entry: LedgerEntry) -> None:
        """Charge the truth and write the entry, once."""
        await self.admission.settle(self, entry)


class RedisAdmission:
    """Implements `app.interfaces.Admission`."""

    def __init__(
        self,
        store: RedisStore,
        config: AdmissionConfig = AdmissionConfig(),
        *,
        on_refusal: Callable[[str, str], None] = lambda _account, _limit: None,
        hash_user: Callable[[str, str], str] = lambda _tenant, user: user,
        local: LocalShare | None = None,
        on_outage: Callable[[str], None] = lambda _decision: None,
        on_settled: Callable[[str], None] = lambda _tenant: None,
    ) -> None:
        self._reserve, self._extend, self._settle, self._charge, self._release, self._expire = _scripts(
            "reserve", "extend", "settle", "charge", "release", "expire"
        )
        self._store = store
        self._config = config
        self._on_refusal = on_refusal
        self._hash_user = hash_user
        self._local = local
        self._on_outage = on_outage
        self._on_settled = on_settled
        self._accounts = Accounts()
        self._estimator = OutputEstimator()
        self._pending: set[asyncio.Task[None]] = set()

    async def reserve(self, principal: Principal, call: Call, choice: Choice, request_id: str) -> HeldReservation:
        """Hold what the call may cost; raises RateLimited, QuotaExhausted or Unavailable."""
        ask = self._ask(principal, call, choice, request_id)
        try:
            reply = await self._store.run(self._reserve, ask.keys, ask.args)
        except asyncio.CancelledError:
            self._in_background(self._take_back(ask))
            raise
        except (RedisDown, ResponseError) as exc:
            return self._without_redis(ask, choice, exc)
        if self._local is not None:
            self._local.redis_answers()
        if reply[0] == TAKEN_BACK:
            raise Unavailable("This request was given up before it could be admitted; send it again.")
        if reply[0] == REFUSED:
            raise self._refusal(ask.accounts.accounts, reply)
        chosen, entry = (choice.cheaper, ask.cheaper) if reply[DEGRADED] else (choice, ask.lost)
        return HeldReservation(
            admission=self,
            accounts=ask.accounts,
            choice=chosen or choice,
            state=_state(reply),
            entry=entry or ask.lost,
            reserved_microusd=(entry or ask.lost).cost_microusd,
            reserved_tokens=ask.tokens,
        )

    def _without_redis(self, ask: _Ask, choice: Choice, exc: Exception) -> HeldReservation:
        """Admit by our own share, or refuse; if the script may have run, it is then taken back.

        A call that is admitted here is settled like any other: against the reservation if the script did run, else as
        one that Redis has never heard of.
        """
        tenant, accounts = ask.lost.tenant_id, ask.accounts.accounts
        try:
            if self._local is None or len(self._pending) >= MAX_PENDING:
                raise Unavailable("Limits cannot be checked right now; try again shortly.") from exc
            state = self._local.admit(tenant, accounts, ask.tokens, ask.lost.cost_microusd)
        except GatewayError:
            self._on_outage("refused")
            if not isinstance(exc, RedisUnreached):
                self._in_background(self._take_back(ask))
            raise
        self._on_outage("admitted")
        return HeldReservation(
            self, ask.accounts, choice, state, ask.lost, ask.lost.cost_microusd, ask.tokens, is_local=True
        )

    async def extend(self, held: HeldReservation, tokens: int, cost: int) -> bool:
        """Hold more for a running answer. Open when Redis is away: the settlement charges what was used in any case."""
        entry = held.entry
        longer = replace(
            entry,
            completion_tokens=entry.completion_tokens + tokens,
            cost_microusd=entry.cost_microusd + cost,
        )
        keys = [
            reservation_key(entry.tenant_id, entry.request_id), leases_key(entry.tenant_id), *held.accounts.keys
        ]  # fmt: skip
        args: Arguments = [entry.request_id, tokens, cost, self._config.lease_seconds * 1000, encode(longer)]
        try:
            reply = await self._store.run(self._extend, keys, args)
        except (RedisDown, ResponseError):
            return True
        if reply[0] == REFUSED:
            self._on_refusal(held.accounts.accounts[int(reply[1]) - 1].kind.value, reply[2].decode())
            return False
        held.entry = longer
        held.reserved_tokens += tokens
        held.reserved_microusd += cost
        return True

    async def settle(self, held: HeldReservation, entry: LedgerEntry) -> None:
        """Charge the truth; survives the caller's cancellation, and keeps trying while Redis is away."""
        if entry.outcome is Outcome.OK and entry.completion_tokens:
            self._estimator.learn(_learning(entry.tenant_id, entry.route), entry.completion_tokens)
        if held.is_local and self._local is not None:
            held.is_local = False
            self._local.done(entry.tenant_id, held.accounts.accounts)
        try:
            await self._settle_once(held, entry, impatient=True)
        except (RedisDown, ResponseError, asyncio.CancelledError) as exc:
            # Whether the script ran is unknown; it is idempotent, so it is simply run again, by a task of our own.
            self._in_background(self._until_heard(lambda: self._settle_once(held, entry)))
            if isinstance(exc, asyncio.CancelledError):
                raise

    async def sweep(self, tenants: Sequence[str]) -> Outstanding:
        """Charge expired leases of tenants that send nothing; returns what all of them hold."""
        reservations = microusd = 0
        for tenant in tenants:
            whole = account_key(tenant, Account(AccountKind.TENANT, tenant, Limits()))
            keys = [leases_key(tenant), stream_key(tenant), whole]
            args: Arguments = [reservation_key(tenant, ""), EXPIRE_BATCH]
            found = EXPIRE_BATCH
            while found == EXPIRE_BATCH:
                found, count, held = await self._store.run(self._expire, keys, args)
            reservations, microusd = reservations + count, microusd + held
        return Outstanding(reservations, microusd)

    async def drain(self) -> None:
        """Wait for what must still be said to Redis."""
        if self._pending:
            await asyncio.wait(self._pending, timeout=DRAIN_SECONDS)

    def _ask(self, principal: Principal, call: Call, choice: Choice, request_id: str) -> _Ask:
        tenant = principal.tenant_id
        held = self._estimate(principal, call, choice)
        user = self._hash_user(tenant, call.user) if call.user else None
        accounts = self._accounts.render(tenant, accounts_of(principal, choice.route.name, user))
        lost = self._lost(principal, call, choice, request_id, held, user)
        cheaper = None
        if choice.cheaper is not None:
            cheaper = self._lost(principal, call, choice.cheaper, request_id, held, user)
        keys = [reservation_key(tenant, request_id), leases_key(tenant), stream_key(tenant), *accounts.keys]
        args: Arguments = [
            request_id, held.total_tokens, lost.cost_microusd, self._config.lease_seconds * 1000, encode(lost),
            reservation_key(tenant, ""), accounts.limits,
            "" if cheaper is None else cheaper.cost_microusd, "" if cheaper is None else encode(cheaper),
        ]  # fmt: skip
        return _Ask(keys, args, accounts, held.total_tokens, lost, cheaper)

    def _estimate(self, principal: Principal, call: Call, choice: Choice) -> Usage:
        ceiling = self._config.default_output_tokens if call.max_tokens is None else call.max_tokens
        if ceiling == 0:
            return Usage(call.prompt_tokens_estimate, 0, estimated=True)
        one = self._estimator.estimate(_learning(principal.tenant_id, choice.route.name), ceiling)
        return Usage(call.prompt_tokens_estimate, one * call.choices, estimated=True)

    def _lost(
        self, principal: Principal, call: Call, choice: Choice, request_id: str, held: Usage, user: str | None
    ) -> LedgerEntry:
        cost = dearest_microusd((target.charged for target in choice.targets), held)
        return lost_entry(principal, call, choice, request_id, held, cost=cost, user_hash=user)

    def _refusal(self, accounts: Sequence[Account], reply: Sequence[bytes | int]) -> Exception:
        account = accounts[int(reply[1]) - 1]
        limit = reply[2].decode() if isinstance(reply[2], bytes) else str(reply[2])
        self._on_refusal(account.kind.value, limit)
        return refusal(account, limit, wait_ms=int(reply[3]), allowed=int(reply[4]), used=int(reply[5]))

    async def _settle_once(self, held: HeldReservation, entry: LedgerEntry, *, impatient: bool = False) -> None:
        tenant, request_id = entry.tenant_id, entry.request_id
        tokens, cost, payload = entry.prompt_tokens + entry.completion_tokens, entry.cost_microusd, encode(entry)
        reservation = reservation_key(tenant, request_id)
        keys = [reservation, leases_key(tenant), stream_key(tenant)]
        done = await self._store.run(self._settle, keys, [request_id, tokens, cost, payload], impatient=impatient)
        if done == UNKNOWN:
            keys = [reservation, stream_key(tenant), *held.accounts.keys]
            await self._store.run(self._charge, keys, [tokens, cost, payload, held.accounts.limits])
        self._on_settled(tenant)

    async def _take_back(self, ask: _Ask) -> None:
        request_id, keys = ask.lost.request_id, ask.keys[:3]
        nothing = replace(ask.lost, prompt_tokens=0, completion_tokens=0, cost_microusd=0, outcome=Outcome.FAILED)

        async def once() -> None:
            done = await self._store.run(self._release, keys, [request_id, self._config.lease_seconds * 1000])
            if done == WAS_LOST:
                await self._store.run(self._settle, keys, [request_id, 0, 0, encode(nothing)])

        await self._until_heard(once)

    async def _until_heard(self, say: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            await self._store.connected()
            try:
                await say()
            except RedisDown:
                await asyncio.sleep(AGAIN_SECONDS)
            except ResponseError as exc:  # out of memory, a script that was killed: it may pass
                _logger.warning("redis_refuses", error=str(exc)[:200])
                await asyncio.sleep(REFUSED_SECONDS)
            else:
                return

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)


def _scripts(*names: str) -> list[Script]:
    folder = files("app.admission") / "scripts"
    common = (folder / "common.lua").read_text(encoding="utf-8")
    return [Script(common + (folder / f"{name}.lua").read_text(encoding="utf-8")) for name in names]


def _learning(tenant: str, route: str) -> str:
    return f"{tenant}/{route}"


def _state(reply: Sequence[int]) -> RateLimitState:
    limits = [None if value < 0 else int(value) for value in reply[1:DEGRADED]]
    state = RateLimitState(*limits[:3], *limits[3:])  # type: ignore[arg-type]  # six of them
    return replace(state, degraded=True) if reply[DEGRADED] else state
