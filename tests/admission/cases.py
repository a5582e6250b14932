"""Callers, calls and ledger entries for tests of admission, and a Redis clock that stands still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from app.admission.accounts import leases_key
from app.admission.leases import Leases
from app.admission.redis import HeldReservation, Outstanding, RedisAdmission
from app.errors import QuotaExhausted, RateLimited
from app.storage.ledger import decode
from app.storage.redis import RedisStore, Script
from app.types import (
    Account,
    AccountKind,
    Call,
    Choice,
    LedgerEntry,
    Limits,
    Operation,
    Outcome,
    Price,
    Principal,
    Route,
    Target,
)

PRICE = Price(1_000_000, 1_000_000)  # one micro-dollar a token, so that tokens and money are easy to tell in a test
NONE = Limits()
ROUTE = Route("support", None, ())
CLOCK = "tg:test:clock"
START = 1_764_000_000_000_000  # some Monday in November 2025, in microseconds


def principal(
    *,
    key: Limits = NONE,
    team: Limits = NONE,
    tenant: Limits = NONE,
    tenant_id: str = "acme",
    key_id: str = "k1",
    more: Sequence[Account] = (),
) -> Principal:
    """A caller with these limits on its key, its team and its tenant."""
    accounts = (
        Account(AccountKind.KEY, key_id, key),
        Account(AccountKind.TEAM, "t1", team),
        Account(AccountKind.TENANT, tenant_id, tenant),
        *more,
    )
    return Principal(tenant_id, "t1", key_id, frozenset(Operation), None, accounts)


def of_scope(scope: str, limits: Mapping[str, Any], **fields: Any) -> Principal:
    """A caller with limits by name on its key, team or tenant."""
    given: dict[str, Any] = {scope: Limits(**limits), **fields}
    return principal(**given)


def call(*, prompt: int = 10, output: int | None = 10, stream: bool = False, user: str | None = None) -> Call:
    """A chat call of so many prompt tokens, asking for so many at most."""
    return Call(
        operation=Operation.CHAT,
        route="support",
        body=b"{}",
        fields={},
        stream=stream,
        include_usage=False,
        max_tokens=output,
        choices=1,
        user=user,
        prompt_tokens_estimate=prompt,
    )


def choice(price: Price = PRICE, **fields: Any) -> Choice:
    """A choice of one target at this price."""
    return Choice(ROUTE, "main", (Target("up", "model", price),), **fields)


def entry(
    held: HeldReservation, *, prompt: int = 10, completion: int = 10, outcome: Outcome = Outcome.OK
) -> LedgerEntry:
    """What the call of a reservation truly used, at one micro-dollar a token."""
    return replace(
        held.entry,
        prompt_tokens=prompt,
        completion_tokens=completion,
        cost_microusd=prompt + completion,
        estimated=False,
        outcome=outcome,
        status=200,
    )


async def admitted(admission: RedisAdmission, who: Principal, request_id: str, **fields: Any) -> HeldReservation | None:
    """The reservation of one more call, or None when it is refused."""
    try:
        return await admission.reserve(who, call(**fields), choice(), request_id)
    except (RateLimited, QuotaExhausted):
        return None


async def taken_back(admission: RedisAdmission, who: Principal, request_id: str) -> None:
    """Release what this call may hold, as for a caller that has gone before it learned of it."""
    asked = admission.questions.ask(who, call(), choice(), request_id)
    await admission._take_back(asked.lost)


async def ledger(store: RedisStore, tenant: str = "acme") -> list[LedgerEntry]:
    """The entries in a tenant's stream, events left out."""
    rows = await store.command("XRANGE", f"tg:{{{tenant}}}:ledger", "-", "+")
    return [decode(fields[1]) for _, fields in rows if fields[0] == b"e"]


async def counters(store: RedisStore, account: str, tenant: str = "acme") -> dict[str, Any]:
    """An account's map as the scripts keep it, by `kind:id`; empty for one that was never charged."""
    packed = await store.command("GET", f"tg:{{{tenant}}}:acct:{account}")
    return {} if packed is None else msgspec.msgpack.decode(packed, type=dict[str, Any])


async def swept(leases: Leases, store: RedisStore, tenant: str = "acme") -> Outstanding:
    """Charge what a tenant's leases owe now; what Redis then still holds for it."""
    await leases.charge([tenant])
    held = (await counters(store, f"tenant:{tenant}", tenant)).get("hc", 0)
    return Outstanding(await store.command("ZCARD", leases_key(tenant)), held)


class Clock:
    """Redis' time in the admission scripts, moved by hand: their call of TIME is replaced by a key."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self.now = START

    @classmethod
    async def over(cls, admission: RedisAdmission, leases: Leases, store: RedisStore) -> Clock:
        """Take over the clock of all scripts of these two."""
        clock = cls(store)
        clock.rule(admission)
        clock.rule(leases)
        await clock.set(START)
        return clock

    def rule(self, over: RedisAdmission | Leases) -> None:
        """Take over the clock of the scripts of this one too."""
        scripts = {name: script for name, script in vars(over).items() if isinstance(script, Script)}
        assert scripts
        for name, script in scripts.items():
            frozen = script.source.replace("redis.call('TIME')", f"{{0, redis.call('GET', '{CLOCK}')}}")
            assert frozen != script.source
            setattr(over, name, Script(frozen))

    async def set(self, microseconds: int) -> None:
        """It is this late now."""
        self.now = microseconds
        await self._store.command("SET", CLOCK, microseconds)

    async def add(self, seconds: float) -> None:
        """So much later (or earlier)."""
        await self.set(self.now + round(seconds * 1_000_000))
