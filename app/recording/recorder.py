"""The account of one request: opened when it is admitted, settled exactly once, however it ends.

Races removed: a client that leaves while its answer is written, an upstream that breaks off, and a process that is told
to stop all reach `settle` or `__aexit__`, whichever comes first; the second does nothing, and the script behind it is
idempotent on the request id besides. `Reservation.settle` is shielded, so a cancelled request is still charged.

`settle` sends the settlement before the caller has the last bytes of its answer; leaving the account waits until it was
heard. So the caller does not wait for Redis, and its next request, which is said to Redis later, finds it done.

What is charged: what the upstream counted; else what was relayed; else, for a call that left before its answer began,
the prompt (a stream) or the whole held estimate (no stream: the upstream may have made all of it). A call that was
refused or failed upstream before the first byte costs nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from app.errors import GatewayError, UpstreamFailed, UpstreamRefused
from app.interfaces import Bill, Meter, Reservation
from app.observability.request_log import RequestLog, by_structlog
from app.types import (
    CachedAnswer,
    CacheStatus,
    Call,
    Choice,
    LedgerEntry,
    Outcome,
    Price,
    Principal,
    Request,
    Target,
    Usage,
)

MARGIN_TOKENS = 64  # so near the end of what it holds, an answer asks for more
_LEFT_EARLY = (Outcome.CLIENT_GONE, Outcome.BUDGET_STOPPED, Outcome.FAILED)  # others may still get the whole answer
CLIENT_CLOSED = 499  # nginx's status for a client that went away; it reaches the ledger and metrics, nobody else


@dataclass(frozen=True, slots=True)
class Recorder:
    """The recording stage: what every account needs to be closed."""

    cost: Callable[[Price, Usage], int]
    finished: Callable[[LedgerEntry, float, float | None], None]
    hash_user: Callable[[str, str], str]
    log: RequestLog = by_structlog

    def open(
        self, request: Request, principal: Principal, call: Call, choice: Choice, reservation: Reservation
    ) -> Account:
        """Open the account of an admitted request; use it with `async with`."""
        return Account(self, request, principal, call, choice, reservation)


class Account:
    """One request's account; implements `app.interfaces.Record`."""

    def __init__(
        self,
        recorder: Recorder,
        request: Request,
        principal: Principal,
        call: Call,
        choice: Choice,
        reservation: Reservation,
    ) -> None:
        self._recorder = recorder
        self._request = request
        self._principal = principal
        self._call = call
        self._choice = choice
        self._reservation = reservation
        self._started = time.perf_counter()
        self._first_byte: float | None = None
        self._target: Target | None = None
        self._meter: Meter | None = None
        self._hit: tuple[CachedAnswer, Usage] | None = None
        self._broke: GatewayError | None = None
        self._bill: Bill | None = None
        self._stopped = False
        self._settlement: Awaitable[None] | None = None
        self.cache = CacheStatus.BYPASS

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await (self._settlement or self._close(*self._ending(exc)))

    def sent(self, target: Target) -> None:
        """The call has gone to this target: from here on it may cost something."""
        self._target = target

    def first_byte(self) -> None:
        """The first byte of the answer is here."""
        if self._first_byte is None:
            self._first_byte = time.perf_counter() - self._started

    def metered(self, target: Target, meter: Meter) -> None:
        """Name the target that answers and the meter that knows what it used."""
        self._target = target
        self._meter = meter

    def hit(self, answer: CachedAnswer, usage: Usage) -> None:
        """The answer comes from the cache: it costs nothing, and this is what it saved."""
        self._hit = (answer, usage)
        self.cache = answer.status
        self.first_byte()

    def shares(self, bill: Bill, *, joined: bool) -> None:
        """The answer is shared with identical calls; this one has joined, or is the first."""
        self._bill = bill
        if joined:
            self.cache = CacheStatus.COALESCED

    def broke(self, error: GatewayError) -> None:
        """The upstream broke off after the answer had begun."""
        self._broke = error

    async def affords(self) -> bool:
        """Whether a running answer may go on: holds more when it outgrows its estimate, False when nothing is left."""
        if self._meter is None or self._target is None:
            return True
        used, held = self._meter.usage().total_tokens, self._reservation.reserved_tokens
        if used + MARGIN_TOKENS <= held:
            return True
        more = max(MARGIN_TOKENS, held // 4)
        for tokens in (more, MARGIN_TOKENS):
            cost = self._recorder.cost(self._target.charged, Usage(completion_tokens=tokens))
            if await self._reservation.extend(tokens, cost):
                return True
        self._stopped = used >= held
        return not self._stopped

    def settle(self) -> None:
        """The answer is complete: charge it and write it down. Later calls do nothing."""
        if self._broke is not None:
            self._close(Outcome.UPSTREAM_BROKE, self._broke.status)
        elif self._hit is not None:
            exact = self._hit[0].status is CacheStatus.EXACT
            self._close(Outcome.CACHE_EXACT if exact else Outcome.CACHE_SEMANTIC, 200)
        else:
            self._close(Outcome.BUDGET_STOPPED if self._stopped else Outcome.OK, 200)

    def _ending(self, exc: BaseException | None) -> tuple[Outcome, int]:
        if self._broke is not None:
            return Outcome.UPSTREAM_BROKE, self._broke.status
        if exc is None or isinstance(exc, asyncio.CancelledError | GeneratorExit | OSError):
            return Outcome.CLIENT_GONE, CLIENT_CLOSED
        if isinstance(exc, UpstreamRefused):
            return Outcome.UPSTREAM_REFUSED, exc.status
        if isinstance(exc, UpstreamFailed):
            return Outcome.UPSTREAM_FAILED, exc.status
        return Outcome.FAILED, exc.status if isinstance(exc, GatewayError) else 500

    def _close(self, outcome: Outcome, status: int) -> Awaitable[None]:
        if self._settlement is None:
            entry = self._entry(outcome, status)
            self._recorder.finished(entry, entry.latency_ms / 1000, self._first_byte)
            self._recorder.log(entry)
            self._settlement = self._reservation.settle(entry)
        return self._settlement

    def _usage(self, outcome: Outcome) -> Usage:
        if self._hit is not None:
            return Usage()
        if self._meter is not None:
            return self._meter.usage()
        if self._target is None or outcome is not Outcome.CLIENT_GONE:
            return Usage()
        prompt = self._call.prompt_tokens_estimate
        output = 0 if self._call.stream else max(0, self._reservation.reserved_tokens - prompt)
        return Usage(prompt_tokens=prompt, completion_tokens=output, estimated=True)

    def _charged(self, outcome: Outcome) -> tuple[Usage, Usage]:
        """What this request pays for, and what it would have paid for without the cache."""
        used = self._usage(outcome)
        if self._hit is not None:
            return used, self._hit[1]
        if self._bill is None:
            return used, Usage()
        charged = self._bill.charge(used, complete=outcome not in _LEFT_EARLY)
        return charged, Usage() if charged.total_tokens else used

    def _entry(self, outcome: Outcome, status: int) -> LedgerEntry:
        target = self._target or self._choice.targets[0]
        usage, saved = self._charged(outcome)
        principal, call = self._principal, self._call
        return LedgerEntry(
            request_id=self._request.id,
            tenant_id=principal.tenant_id,
            team_id=principal.team_id,
            key_id=principal.key_id,
            user_hash=self._recorder.hash_user(principal.tenant_id, call.user) if call.user else None,
            operation=call.operation,
            route=self._choice.route.name,
            variant=self._choice.variant,
            upstream=target.upstream,
            model=target.model,
            adapter_version=target.adapter.id if target.adapter else None,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            estimated=usage.estimated,
            cost_microusd=self._recorder.cost(target.charged, usage),
            saved_microusd=self._recorder.cost(target.price, saved),
            outcome=outcome,
            status=status,
            started_at=self._request.received_at,
            latency_ms=round((time.perf_counter() - self._started) * 1000),
            first_byte_ms=None if self._first_byte is None else round(self._first_byte * 1000),
            cache=self.cache,
            reasoning_tokens=usage.reasoning_tokens,
            byok_microusd=0 if target.credential is None else self._recorder.cost(target.price, usage),
        )
