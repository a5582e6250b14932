"""The ledger entry as it travels through Redis: one JSON object, the same for Python and for the Lua scripts."""

from __future__ import annotations

import msgspec

from app.types import LedgerEntry

_decoder = msgspec.json.Decoder(LedgerEntry)
_encoder = msgspec.json.Encoder()


def stream_key(tenant_id: str) -> str:
    """The tenant's ledger stream, under the same hash tag as its counters."""
    return f"tg:{{{tenant_id}}}:ledger"


def encode(entry: LedgerEntry) -> bytes:
    """JSON bytes."""
    return _encoder.encode(entry)


def decode(payload: bytes) -> LedgerEntry:
    """The entry of these bytes; raises msgspec.ValidationError on bytes that are none."""
    return _decoder.decode(payload)


def entry_id(entry: LedgerEntry) -> str:
    """What makes an entry unique in SQL: the request, and whether it is the charge, the loss, or its correction."""
    kind = "adjust" if entry.adjustment else "charge"
    return f"{entry.tenant_id}/{entry.request_id}/{kind}"
