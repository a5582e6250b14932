"""The tables that make the policy: callers, their limits and routes, adapters and their aliases.

The gateways keep these rows in memory (`app.storage.policy`): each carries the revision of its last change and is never
deleted. A deletion is a mark, so that it reaches every gateway as a change like any other.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    String,
    Table,
)

from app.storage.tables.columns import limits, metadata, tracked

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
    *limits(),
    *tracked(),
)
teams = Table(
    "teams",
    metadata,
    Column("tenant_id", String(63), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("name", String(200)),
    *limits(),
    *tracked(),
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
    *limits(),
    *tracked(),
    ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
)
routes = Table(
    "routes",
    metadata,
    Column("scope", String(63), primary_key=True),
    Column("name", String(200), primary_key=True),
    Column("spec", JSON, nullable=False),
    *tracked(),
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
    *tracked(),
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
    *tracked(),
    ForeignKeyConstraint(["version_id"], ["adapter_versions.id"]),
)
provider_keys = Table(
    "provider_keys",
    metadata,
    Column("tenant_id", String(63), primary_key=True),
    Column("team_id", String(63), primary_key=True),
    Column("provider", String(63), primary_key=True),
    Column("sealed_key", LargeBinary, nullable=False),
    *tracked(),
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
    *limits(),
    *tracked(),
    ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
)
cold_starts = Table(
    "cold_starts",
    metadata,
    Column("tenant_id", String(63), primary_key=True),
    Column("wait_ms", Integer, nullable=True),
    Column("previous", Boolean, nullable=False),
    *tracked(),
    ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
)
