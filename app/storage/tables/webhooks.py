"""The tables of webhooks: who is told, and the outbox of what is still to be told."""

from __future__ import annotations

from sqlalchemy import JSON, Column, Float, ForeignKeyConstraint, Integer, String, Table, Text

from app.storage.tables.columns import metadata

webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("tenant_id", String(63), nullable=False, index=True),
    Column("url", String(2000), nullable=False),
    Column("events", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("failing_since", Float, nullable=True),
    Column("disabled_at", Float, nullable=True),
    ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
)
webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("endpoint_id", String(40), primary_key=True),
    Column("event_id", String(64), primary_key=True),
    Column("type", String(100), nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("due_at", Float, nullable=True, index=True),
    Column("delivered_at", Float, nullable=True),
    Column("last_error", String(200), nullable=True),
    ForeignKeyConstraint(["endpoint_id"], ["webhook_endpoints.id"], ondelete="CASCADE"),
)
