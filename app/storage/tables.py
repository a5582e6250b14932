"""The SQL tables. Rows that the gateways keep in memory carry the revision of their last change and are never deleted.

A deletion is a mark, so that it reaches every gateway as a change like any other. Money is whole micro-dollars
(BIGINT), instants are seconds since the epoch.
"""

from __future__ import annotations

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
    "tokens_per_minute",
    "tokens_per_day",
    "concurrent_requests",
    "budget_day_microusd",
    "budget_month_microusd",
)

metadata = MetaData(naming_convention=NAMES)


def _limits() -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=True) for name in LIMITS]


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
    *_tracked(),
    ForeignKeyConstraint(["version_id"], ["adapter_versions.id"]),
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
    Column("day", String(10), nullable=False),
    Index(None, "tenant_id", "started_at"),
)
