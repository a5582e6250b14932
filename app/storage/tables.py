"""The SQL tables. Rows that the gateways keep in memory carry the revision of their last change and are never deleted.

A deletion is a mark, so that it reaches every gateway as a change like any other. Money is whole micro-dollars
(BIGINT), instants are seconds since the epoch.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
SHARED = "*"  # the scope of a route that belongs to no tenant
LIMITS = (
    "requests_per_minute",
    "requests_burst",
    "tokens_per_minute",
    "tokens_burst",
    "tokens_per_day",
    "concurrent_requests",
    "budget_day_microusd",
    "budget_week_microusd",
    "budget_month_microusd",
    "budget_total_microusd",
    "spend_per_minute_microusd",
    "spend_surge_percent",
    "breaker",
)

metadata = MetaData(naming_convention=NAMES)


def _limits() -> list[Column[Any]]:
    return [Column(name, String(10) if name == "breaker" else BigInteger, nullable=True) for name in LIMITS]


def _tracked() -> tuple[Column[int], Column[bool], Column[float]]:
    return (
        Column("revision", BigInteger, nullable=False, index=True),
        Column("deleted", Boolean, nullable=False, default=False),
        Column("created_at", Float, nullable=False),
    )


policy_revision = Table(
    "policy_revision",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("revision", BigInteger, nullable=False),
)
tenants = Table(
    "tenants",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("name", String(200)),
    *_limits(),
    *_tracked(),
)
teams = Table(
    "teams",
    metadata,
    Column("tenant_id", String(63), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("name", String(200)),
    *_limits(),
    *_tracked(),
    ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
)
keys = Table(
    "keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("tenant_id", String(63), nullable=False, index=True),
    Column("team_id", String(63), nullable=True),
    Column("name", String(200)),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("prefix", String(16), nullable=False),
    Column("previous_digest", LargeBinary(32), nullable=True),
    Column("previous_until", Float, nullable=True),
    Column("operations", JSON, nullable=False),
    Column("routes", JSON(none_as_null=True), nullable=True),
    Column("expires_at", Float, nullable=True),
    Column("revoked_at", Float, nullable=True),
    *_limits(),
    *_tracked(),
    ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
)
routes = Table(
    "routes",
    metadata,
    Column("scope", String(63), primary_key=True),
    Column("name", String(200), primary_key=True),
    Column("spec", JSON, nullable=False),
    *_tracked(),
)
adapter_versions = Table(
    "adapter_versions",
    metadata,
    Column("id", String(160), primary_key=True),
    Column("tenant_id", String(63), nullable=False, index=True),
    Column("name", String(63), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("path", String(4096), nullable=False),
    Column("base_model", String(400), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("state_reason", String(500), nullable=True),
    Column("state_at", Float, nullable=False),
    Column("lineage", JSON(none_as_null=True), nullable=True),
    Column("signed_by", String(63), nullable=True),
    *_tracked(),
    ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
)
aliases = Table(
    "aliases",
    metadata,
    Column("tenant_id", String(63), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("alias", String(63), primary_key=True),
    Column("version_id", String(160), nullable=False),
    Column("previous_version_id", String(160), nullable=True),
    *_tracked(),
    ForeignKeyConstraint(["version_id"], ["adapter_versions.id"]),
)
provider_keys = Table(
    "provider_keys",
    metadata,
    Column("tenant_id", String(63), primary_key=True),
    Column("team_id", String(63), primary_key=True),
    Column("provider", String(63), primary_key=True),
    Column("sealed_key", LargeBinary, nullable=False),
    *_tracked(),
    ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
)
limit_rules = Table(
    "limit_rules",
    metadata,
    Column("tenant_id", String(63), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("kind", String(10), nullable=False),
    Column("subject", String(64), nullable=True),
    Column("route", String(200), nullable=True),
    *_limits(),
    *_tracked(),
    ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
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
cold_starts = Table(
    "cold_starts",
    metadata,
    Column("tenant_id", String(63), primary_key=True),
    Column("wait_ms", Integer, nullable=True),
    Column("previous", Boolean, nullable=False),
    *_tracked(),
    ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
)
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
files = Table(
    "files",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("tenant_id", String(63), nullable=False),
    Column("filename", String(255), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=True),
    ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
    Index(None, "tenant_id", "created_at", "id"),
)
fine_tuning_jobs = Table(
    "fine_tuning_jobs",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("tenant_id", String(63), nullable=False),
    Column("model", String(400), nullable=False),
    Column("base", String(400), nullable=False),
    Column("pool", String(63), nullable=True),
    Column("provider", String(63), nullable=True),
    Column("name", String(63), nullable=False),
    Column("suffix", String(64), nullable=True),
    Column("method", String(20), nullable=False),
    Column("hyperparameters", JSON, nullable=False),
    Column("recipe", String(63), nullable=True),
    Column("seed", BigInteger, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("training_file", String(40), nullable=False),
    Column("validation_file", String(40), nullable=True),
    Column("status", String(20), nullable=False),
    Column("pause_requested", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float, nullable=True),
    Column("estimated_finish", Float, nullable=True),
    Column("estimated_tokens", BigInteger, nullable=False),
    Column("trained_tokens", BigInteger, nullable=True),
    Column("charged_tokens", BigInteger, nullable=False),
    Column("error", JSON(none_as_null=True), nullable=True),
    Column("fine_tuned_model", String(200), nullable=True),
    Column("version_id", String(160), nullable=True),
    Column("adapter_sha256", String(64), nullable=True),
    Column("lease_token", BigInteger, nullable=False),
    Column("lease_expires_at", Float, nullable=True),
    Column("holder", String(200), nullable=True),
    Column("attempt", Integer, nullable=False),
    Column("stage", String(20), nullable=True),
    Column("step", BigInteger, nullable=True),
    Column("total_steps", BigInteger, nullable=True),
    ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
    Index(None, "tenant_id", "created_at", "id"),
    Index(None, "status", "created_at"),
)
fine_tuning_events = Table(
    "fine_tuning_events",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("job_id", String(40), nullable=False),
    Column("id", String(64), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("level", String(10), nullable=False),
    Column("type", String(10), nullable=False),
    Column("message", String(4000), nullable=False),
    Column("data", JSON(none_as_null=True), nullable=True),
    ForeignKeyConstraint(["job_id"], ["fine_tuning_jobs.id"], ondelete="CASCADE"),
    UniqueConstraint("job_id", "id"),
)
fine_tuning_checkpoints = Table(
    "fine_tuning_checkpoints",
    metadata,
    Column("job_id", String(40), primary_key=True),
    Column("step", BigInteger, primary_key=True),
    Column("id", String(40), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("metrics", JSON, nullable=False),
    ForeignKeyConstraint(["job_id"], ["fine_tuning_jobs.id"], ondelete="CASCADE"),
)
