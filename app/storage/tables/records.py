"""The tables of what has happened: the ledger of calls, the events of budgets, the audit log of changes.

Rows are only ever added.
"""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Index, Integer, String, Table

from app.storage.tables.columns import metadata

ledger = Table(
    "ledger",
    metadata,
    Column("entry_id", String(200), primary_key=True),
    Column("request_id", String(64), nullable=False),
    Column("tenant_id", String(63), nullable=False),
    Column("team_id", String(63), nullable=True),
    Column("key_id", String(40), nullable=False),
    Column("user_hash", String(64), nullable=True),
    Column("operation", String(20), nullable=False),
    Column("route", String(200), nullable=False),
    Column("variant", String(200), nullable=False),
    Column("upstream", String(63), nullable=False),
    Column("model", String(400), nullable=False),
    Column("adapter_version", String(160), nullable=True),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("cost_microusd", BigInteger, nullable=False),
    Column("saved_microusd", BigInteger, nullable=False),
    Column("outcome", String(30), nullable=False),
    Column("status", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("latency_ms", Integer, nullable=False),
    Column("first_byte_ms", Integer, nullable=True),
    Column("cache", String(10), nullable=False),
    Column("adjustment", Boolean, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False, server_default="0"),
    Column("byok_microusd", BigInteger, nullable=False, server_default="0"),
    Column("day", String(10), nullable=False),
    Index(None, "tenant_id", "started_at"),
)
budget_events = Table(
    "budget_events",
    metadata,
    Column("event_id", String(64), primary_key=True),
    Column("tenant_id", String(63), nullable=False),
    Column("event", String(30), nullable=False),
    Column("kind", String(10), nullable=False),
    Column("account", String(64), nullable=False),
    Column("route", String(200), nullable=True),
    Column("limit_name", String(30), nullable=False),
    Column("percent", Integer, nullable=True),
    Column("allowed", BigInteger, nullable=True),
    Column("used", BigInteger, nullable=True),
    Column("policy", String(10), nullable=True),
    Column("at", Float, nullable=False),
    Index(None, "tenant_id", "at"),
)
audit_log = Table(
    "audit_log",
    metadata,
    Column("revision", BigInteger, primary_key=True),
    Column("object", String(300), primary_key=True),
    Column("at", Float, nullable=False),
    Column("who", String(200), nullable=False),
    Column("before", JSON(none_as_null=True), nullable=True),
    Column("after", JSON, nullable=False),
    Index(None, "object", "revision"),
)
