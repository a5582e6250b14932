"""What travels through a tenant's ledger stream: entries and budget events, the same JSON for Python and for Lua."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from app.types import AccountKind, LedgerEntry


@dataclass(frozen=True, slots=True)
class BudgetEvent:
    """Something an account's owner should hear of: 50, 80 or 100 % of a budget, a breaker that opened or closed.

    `window` numbers the day, week or month, or says until when a breaker is open; `at` is in milliseconds.
    """

    event: str
    kind: AccountKind
    account: str
    limit: str
    at: int
    window: float
    route: str | None = None
    percent: int | None = None
    allowed: int | None = None
    used: int | None = None
    policy: str | None = None

    def id(self, tenant_id: str) -> str:
        """What makes it unique: told once per account, limit and window, however often it is read."""
        parts = (tenant_id, self.kind.value, self.account, self.route or "", self.event, self.limit)
        return "/".join(parts) + f"/{self.window:.0f}/{self.percent or 0}"


_decoder = msgspec.json.Decoder(LedgerEntry)
_encoder = msgspec.json.Encoder()
_event_decoder = msgspec.json.Decoder(BudgetEvent)


def stream_key(tenant_id: str) -> str:
    """The tenant's ledger stream, under the same hash tag as its counters."""
    return f"tg:{{{tenant_id}}}:ledger"


def unreadable_key(tenant_id: str) -> str:
    """Where entries lie that no flusher could read."""
    return f"tg:{{{tenant_id}}}:ledger:unreadable"


def encode(entry: LedgerEntry) -> bytes:
    """JSON bytes."""
    return _encoder.encode(entry)


def decode(payload: bytes) -> LedgerEntry:
    """The entry of these bytes; raises msgspec.DecodeError on bytes that are none."""
    return _decoder.decode(payload)


def decode_event(payload: bytes) -> BudgetEvent:
    """The event of these bytes; raises msgspec.DecodeError on bytes that are none."""
    return _event_decoder.decode(payload)


def entry_id(entry: LedgerEntry) -> str:
    """What makes an entry unique in SQL: the request, and whether it is the charge, the loss, or its correction."""
    kind = "adjust" if entry.adjustment else "charge"
    return f"{entry.tenant_id}/{entry.request_id}/{kind}"
