"""The SQL tables, parted by what they are about. Importing this package makes the metadata whole.

Money is whole micro-dollars (BIGINT), instants are seconds since the epoch.
"""

from __future__ import annotations

from app.storage.tables.columns import LIMITS, SHARED, metadata
from app.storage.tables.policy import (
    adapter_versions,
    aliases,
    cold_starts,
    keys,
    limit_rules,
    policy_revision,
    provider_keys,
    routes,
    teams,
    tenants,
)
from app.storage.tables.records import audit_log, budget_events, ledger
from app.storage.tables.tuning import files, fine_tuning_checkpoints, fine_tuning_events, fine_tuning_jobs
from app.storage.tables.webhooks import webhook_deliveries, webhook_endpoints

__all__ = [
    "LIMITS",
    "SHARED",
    "adapter_versions",
    "aliases",
    "audit_log",
    "budget_events",
    "cold_starts",
    "files",
    "fine_tuning_checkpoints",
    "fine_tuning_events",
    "fine_tuning_jobs",
    "keys",
    "ledger",
    "limit_rules",
    "metadata",
    "policy_revision",
    "provider_keys",
    "routes",
    "teams",
    "tenants",
    "webhook_deliveries",
    "webhook_endpoints",
]
