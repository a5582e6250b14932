"""Limits and budgets over Redis: one script decides for every account together and holds what the call may cost.

Race removed: checking and then counting. `reserve.lua` takes every limit or none, so racing requests cannot pass a
budget between them. Invariants: spent plus held never exceeds a budget at admission; every reservation ends exactly
once: settled with the truth, taken back when its caller never learned of it, or charged its estimate (`lost`) when its
lease runs out. All keys of a request share the hash tag `{tenant}` and the clock is Redis' own.

Fail mode: without Redis `LocalShare` decides, if there is one: rates open to a share, budgets closed but for a small
allowance. Otherwise closed: a call is refused with 503, since no budget can be promised. What must still be said to
Redis (a settlement, a release) is said until it has been heard (`app/admission/unheard.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from msgspec.structs import replace
from redis.exceptions import NoScriptError, ResponseError

from app.admission.accounts import Rendered, leases_key, reservation_key
from app.admission.length import shortened
from app.admission.local import LocalShare
from app.admission.question import USUAL, AdmissionConfig, Arguments, Question, Questions
from app.admission.refusal import refusal
from app.admission.scripting import load
from app.admission.unheard import Unheard
from app.errors import GatewayError, Unavailable
from app.storage.ledger import encode, stream_key
from app.storage.redis import RedisDown, RedisStore, RedisUnreached
from app.types import Account, Call, Choice, LedgerEntry, Outcome, Principal, RateLimitState

GIVE_BACK_SECONDS = 1.0
DRAIN_SECONDS = 5.0
UNKNOWN, WAS_LOST = 3, 2
TAKEN_BACK, REFUSED = 2, 0
DEGRADED, SHORTENED = 7, 8  # their places in a reply
ANY_LENGTH = -1

__all__ = ["AdmissionConfig", "HeldReservation", "Outstanding", "RedisAdmission"]


@dataclass(frozen=True, slots=True)
class Outstanding:
    """What is held right now and not yet settled."""

    reservations: int
    microusd: int


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

    def settle(self, entry: LedgerEntry) -> Coroutine[Any, Any, None]:
        """Charge the truth and write the entry, once; await it to know that it was heard."""
        return self.admission.settle(self, entry)

    async def give_back(self) -> None:
        """Undo it: the call is decided anew, under the same request id."""
        await self.admission.give_back(self)


class RedisAdmission:
    """Implements `app.interfaces.Admission`."""

    def __init__(
        self,
        store: RedisStore,
        config: AdmissionConfig = USUAL,
        *,
        on_refusal: Callable[[str, str], None] = lambda _account, _limit: None,
        hash_user: Callable[[str, str], str] = lambda _tenant, user: user,
        local: LocalShare | None = None,
        on_outage: Callable[[str, str], None] = lambda _part, _decision: None,
        on_settled: Callable[[str], None] = lambda _tenant: None,
    ) -> None:
        self._shortened = partial(shortened, default_tokens=config.default_output_tokens)
        self._reserve, self._extend, self._settle, self._charge, self._release = load(
            "reserve", "extend", "settle", "charge", "release"
        )
        self._store = store
        self._config = config
        self.questions = Questions(config, hash_user)
        self._on_refusal = on_refusal
        self._local = local
        self._on_outage = on_outage
        self._on_settled = on_settled
        self._unheard = Unheard(store)
        self._held: dict[str, HeldReservation] = {}

    @property
    def outstanding(self) -> Outstanding:
        """What calls of this gateway hold."""
        return Outstanding(len(self._held), sum(held.reserved_microusd for held in self._held.values()))

    async def reserve(self, principal: Principal, call: Call, choice: Choice, request_id: str) -> HeldReservation:
        """Hold what the call may cost; raises RateLimited, QuotaExhausted or Unavailable."""
        ask = self.questions.ask(principal, call, choice, request_id)
        try:
            reply = await self._store.run(self._reserve, ask.keys, ask.args)
        except asyncio.CancelledError:
            self._take_back(ask.lost)
            raise
        except (RedisDown, ResponseError) as exc:
            return self._hold(self._without_redis(ask, call, choice, exc))
        if self._local is not None:
            self._local.redis_answers()
        if reply[0] == TAKEN_BACK:
            raise Unavailable("This request was given up before it could be admitted; send it again.")
        if reply[0] == REFUSED:
            raise self._refusal(ask.accounts.accounts, reply)
        chosen, entry = choice, ask.lost
        if reply[DEGRADED] and choice.cheaper is not None and ask.cheaper is not None:
            chosen, entry = choice.cheaper, ask.cheaper
        state = _state(reply)
        if reply[SHORTENED] != ANY_LENGTH:
            state = self._shortened(state, call, chosen, entry, int(reply[SHORTENED]))
        return self._hold(HeldReservation(self, ask.accounts, chosen, state, entry, entry.cost_microusd, ask.tokens))

    def _hold(self, held: HeldReservation) -> HeldReservation:
        self._held[held.entry.request_id] = held
        return held

    def _without_redis(self, ask: Question, call: Call, choice: Choice, exc: Exception) -> HeldReservation:
        """Admit by our own share, or refuse; if the script may have run, it is then taken back.

        A call that is admitted here is settled like any other: against the reservation if the script did run, else as
        one that Redis has never heard of.
        """
        tenant, accounts = ask.lost.tenant_id, ask.accounts.accounts
        try:
            if self._local is None or len(self._unheard) >= self._config.max_pending:
                raise Unavailable("Limits cannot be checked right now; try again shortly.") from exc
            state = self._local.admit(tenant, accounts, ask.tokens, ask.lost.cost_microusd)
        except GatewayError:
            self._on_outage("admission", "refused")
            if not isinstance(exc, RedisUnreached):
                self._take_back(ask.lost)
            raise
        self._on_outage("admission", "admitted")
        if ask.may_be_shortened:
            state = self._shortened(state, call, choice, ask.lost, 0)
        return HeldReservation(
            self, ask.accounts, choice, state, ask.lost, ask.lost.cost_microusd, ask.tokens, is_local=True
        )

    async def extend(self, held: HeldReservation, tokens: int, cost: int) -> bool:
        """Hold more for a running answer; while Redis is away, by our own share."""
        entry = held.entry
        longer = replace(
            entry,
            completion_tokens=entry.completion_tokens + tokens,
            cost_microusd=entry.cost_microusd + cost,
        )
        keys = [*_keys(entry)[:2], *held.accounts.keys]
        args: Arguments = [entry.request_id, tokens, cost, self._config.lease_seconds * 1000, encode(longer)]
        try:
            reply = await self._store.run(self._extend, keys, args)
        except (RedisDown, ResponseError):
            if not self._extends_without_redis(held, tokens, cost):
                return False
        else:
            if reply[0] == REFUSED:
                self._on_refusal(held.accounts.accounts[int(reply[1]) - 1].kind.value, reply[2].decode())
                return False
        held.entry = longer
        held.reserved_tokens += tokens
        held.reserved_microusd += cost
        return True

    def _extends_without_redis(self, held: HeldReservation, tokens: int, cost: int) -> bool:
        """By the policy of admission: within the allowance, or (closed) only where no budget can end."""
        accounts = held.accounts
        if self._local is None:
            extended = not accounts.has_budget
        else:
            extended = self._local.extend(held.entry.tenant_id, accounts.accounts, tokens, cost)
        self._on_outage("admission", "extended" if extended else "stopped")
        return extended

    def settle(self, held: HeldReservation, entry: LedgerEntry) -> Coroutine[Any, Any, None]:
        """Charge the truth: sent now, heard when awaited. Survives the caller's cancellation, and Redis being away."""
        self.questions.learn(entry)
        if held.is_local and self._local is not None:
            held.is_local = False
            self._local.done(entry.tenant_id, held.accounts.accounts)
        return self._heard(held, entry, self._store.send(self._settle, *_settlement(entry), impatient=True))

    async def _heard(self, held: HeldReservation, entry: LedgerEntry, sent: Awaitable[int]) -> None:
        try:
            await self._settled(held, entry, await self._replied(entry, sent))
        except (RedisDown, ResponseError, asyncio.CancelledError) as exc:
            # Whether the script ran is unknown; it is idempotent, so it is simply run again, by a task of our own.
            self._on_outage("ledger", "kept")
            self._unheard.say(lambda: self._settle_once(held, entry))
            if isinstance(exc, asyncio.CancelledError):
                raise

    async def _replied(self, entry: LedgerEntry, sent: Awaitable[int]) -> int:
        try:
            return await sent
        except NoScriptError:  # a Redis that was started anew
            return int(await self._store.run(self._settle, *_settlement(entry), impatient=True))

    async def give_back(self, held: HeldReservation) -> None:
        """Undo what is held for a call that is decided anew: as if it had never come, so its id may come again.

        What cannot be said at once is said later; if the call is held again before that, its settlement finds nothing
        held and charges the truth.
        """
        entry = held.entry
        self._held.pop(entry.request_id, None)
        if held.is_local and self._local is not None:
            held.is_local = False
            self._local.done(entry.tenant_id, held.accounts.accounts)
        await asyncio.wait({self._take_back(entry, forget=True)}, timeout=GIVE_BACK_SECONDS)

    async def drain(self) -> None:
        """Wait for what must still be said to Redis."""
        await self._unheard.drain(DRAIN_SECONDS)

    def _refusal(self, accounts: Sequence[Account], reply: Sequence[bytes | int]) -> Exception:
        account = accounts[int(reply[1]) - 1]
        limit = reply[2].decode() if isinstance(reply[2], bytes) else str(reply[2])
        self._on_refusal(account.kind.value, limit)
        return refusal(account, limit, wait_ms=int(reply[3]), allowed=int(reply[4]), used=int(reply[5]))

    async def _settle_once(self, held: HeldReservation, entry: LedgerEntry) -> None:
        await self._settled(held, entry, await self._store.run(self._settle, *_settlement(entry)))

    async def _settled(self, held: HeldReservation, entry: LedgerEntry, done: int) -> None:
        if done == UNKNOWN:
            (reservation, _, stream), (_, *charge) = _settlement(entry)
            keys = [reservation, stream, *held.accounts.keys]
            await self._store.run(self._charge, keys, [*charge, held.accounts.limits])
        self._held.pop(entry.request_id, None)
        self._on_settled(entry.tenant_id)

    def _take_back(self, held: LedgerEntry, *, forget: bool = False) -> asyncio.Task[None]:
        keys, mark_ms = _keys(held), 0 if forget else self._config.lease_seconds * 1000
        nothing = replace(held, prompt_tokens=0, completion_tokens=0, cost_microusd=0, outcome=Outcome.FAILED)

        async def once() -> None:
            done = await self._store.run(self._release, keys, [held.request_id, mark_ms])
            if done == WAS_LOST:
                await self._store.run(self._settle, *_settlement(nothing))

        return self._unheard.say(once)


def _keys(entry: LedgerEntry) -> list[str]:
    """What one reservation lies under: itself, its lease, its ledger."""
    tenant = entry.tenant_id
    return [reservation_key(tenant, entry.request_id), leases_key(tenant), stream_key(tenant)]


def _settlement(entry: LedgerEntry) -> tuple[list[str], Arguments]:
    """The keys and arguments of `settle.lua`."""
    tokens = entry.prompt_tokens + entry.completion_tokens
    return _keys(entry), [entry.request_id, tokens, entry.cost_microusd, encode(entry)]


def _state(reply: Sequence[int]) -> RateLimitState:
    limits = [None if value < 0 else int(value) for value in reply[1:DEGRADED]]
    state = RateLimitState(*limits[:3], *limits[3:])  # type: ignore[arg-type]  # six of them
    return replace(state, degraded=True) if reply[DEGRADED] else state
