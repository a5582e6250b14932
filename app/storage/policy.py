"""Keys, limits, routes and adapters in memory: read from SQL by revision, looked up without waiting.

Every admin change stamps its rows with the next revision in its own transaction, and the counter's row lock makes
revisions commit in order; so "everything newer than mine" misses nothing. While SQL is away the last known policy
serves, up to a maximum age; after that nothing is decided any more (503), never "invalid key".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from sqlalchemy import Table, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.errors import Unavailable
from app.storage.spec import RouteJson
from app.storage.tables import (
    LIMITS,
    SHARED,
    adapter_versions,
    aliases,
    keys,
    limit_rules,
    policy_revision,
    routes,
    teams,
    tenants,
)
from app.types import Account, AccountKind, AdapterVersion, KeyRecord, LimitRule, Limits, Operation, Principal, Route

_ONE_INSTANT = {"postgresql": "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "sqlite": "BEGIN"}
_TABLES = (tenants, teams, keys, routes, adapter_versions, aliases, limit_rules)
_logger = structlog.get_logger()
Row = Mapping[str, Any]


class PolicySnapshot:
    """Implements `app.interfaces.Policy`; changed only by `apply`, in one step between two requests."""

    def __init__(self) -> None:
        self._tenants: dict[str, Limits] = {}
        self._teams: dict[tuple[str, str], Limits] = {}
        self._keys: dict[bytes, Row] = {}
        self._digests: dict[str, bytes] = {}
        self._records: dict[bytes, KeyRecord] = {}
        self._routes: dict[tuple[str, str], Route] = {}
        self._versions: dict[str, AdapterVersion] = {}
        self._aliases: dict[tuple[str, str, str], str] = {}
        self._rules: dict[str, dict[str, LimitRule]] = {}

    def key(self, digest: bytes) -> KeyRecord | None:
        """The key whose secret has this SHA-256 digest (32 bytes)."""
        record = self._records.get(digest)
        if record is None and (row := self._keys.get(digest)) is not None:
            record = self._records[digest] = self._record(row)
        return record

    def route(self, tenant_id: str, name: str) -> Route | None:
        """The tenant's own route of that name, else the shared one."""
        return self._routes.get((tenant_id, name)) or self._routes.get((SHARED, name))

    def routes(self, tenant_id: str) -> Sequence[Route]:
        """Every route the tenant can name, sorted by name."""
        found = {name: route for (scope, name), route in self._routes.items() if scope == SHARED}
        found |= {name: route for (scope, name), route in self._routes.items() if scope == tenant_id}
        return [found[name] for name in sorted(found)]

    def adapter(self, tenant_id: str, name: str, alias: str) -> AdapterVersion | None:
        """The version that the tenant's alias points at."""
        version = self._versions.get(self._aliases.get((tenant_id, name, alias), ""))
        return version if version is not None and version.tenant_id == tenant_id else None

    def served(self) -> dict[str, AdapterVersion]:
        """Every version that an alias means now, by id."""
        known = self._versions
        return {version_id: known[version_id] for version_id in self._aliases.values() if version_id in known}

    def tenant_ids(self) -> list[str]:
        """Every tenant, deleted ones too: their ledgers may still hold something."""
        return list(self._tenants)

    def apply(self, table: Table, row: Row) -> None:
        """Take over one changed row."""
        {
            tenants: self._tenant,
            teams: self._team,
            keys: self._key,
            routes: self._route,
            adapter_versions: self._version,
            aliases: self._alias,
            limit_rules: self._rule,
        }[table](row)

    def _tenant(self, row: Row) -> None:
        self._tenants[row["id"]] = _limits(row)
        self._records.clear()

    def _team(self, row: Row) -> None:
        self._teams[row["tenant_id"], row["id"]] = _limits(row)
        self._records.clear()

    def _key(self, row: Row) -> None:
        digest = bytes(row["digest"])
        self._records.pop(digest, None)
        self._keys[digest] = row

    def _route(self, row: Row) -> None:
        place = (row["scope"], row["name"])
        if row["deleted"]:
            self._routes.pop(place, None)
            return
        tenant_id = None if row["scope"] == SHARED else row["scope"]
        spec = RouteJson.model_validate(row["spec"])
        self._routes[place] = spec.value(row["name"], tenant_id, int(row["created_at"]))

    def _version(self, row: Row) -> None:
        if row["deleted"]:
            self._versions.pop(row["id"], None)
            return
        fields = ("id", "tenant_id", "name", "sha256", "path", "base_model", "rank")
        self._versions[row["id"]] = AdapterVersion(**{field: row[field] for field in fields})

    def _alias(self, row: Row) -> None:
        place = (row["tenant_id"], row["name"], row["alias"])
        if row["deleted"]:
            self._aliases.pop(place, None)
        else:
            self._aliases[place] = row["version_id"]

    def _rule(self, row: Row) -> None:
        rules = self._rules.setdefault(row["tenant_id"], {})
        if row["deleted"]:
            rules.pop(row["id"], None)
        else:
            rules[row["id"]] = LimitRule(AccountKind(row["kind"]), row["subject"], row["route"], _limits(row))
        self._records.clear()

    def _rules_of(self, tenant_id: str, accounts: Sequence[Account]) -> tuple[LimitRule, ...]:
        names = {account.kind: account.id for account in accounts}
        return tuple(
            rule
            for rule in self._rules.get(tenant_id, {}).values()
            if rule.kind is AccountKind.USER or (rule.kind in names and rule.subject in (None, names[rule.kind]))
        )

    def _record(self, row: Row) -> KeyRecord:
        tenant_id, team_id = row["tenant_id"], row["team_id"]
        accounts = [Account(AccountKind.KEY, row["id"], _limits(row))]
        if team_id is not None:
            accounts.append(Account(AccountKind.TEAM, team_id, self._teams.get((tenant_id, team_id), Limits())))
        accounts.append(Account(AccountKind.TENANT, tenant_id, self._tenants.get(tenant_id, Limits())))
        principal = Principal(
            tenant_id=tenant_id,
            team_id=team_id,
            key_id=row["id"],
            operations=frozenset(Operation(name) for name in row["operations"]),
            routes=None if row["routes"] is None else frozenset(row["routes"]),
            accounts=tuple(accounts),
            rules=self._rules_of(tenant_id, accounts),
        )
        return KeyRecord(principal, row["expires_at"], revoked=row["revoked_at"] is not None or row["deleted"])


class PolicyReader:
    """Keeps one snapshot fresh."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        poll_seconds: float = 0.5,
        max_age_seconds: float = 900.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._poll_seconds = poll_seconds
        self._max_age_seconds = max_age_seconds
        self._clock = clock
        self._snapshot = PolicySnapshot()
        self._read_at: float | None = None
        self._refreshing = asyncio.Lock()
        self._woken = asyncio.Event()
        self.revision = -1

    @property
    def age_seconds(self) -> float:
        """Since SQL was last read; infinite before the first time."""
        return float("inf") if self._read_at is None else self._clock() - self._read_at

    def current(self) -> PolicySnapshot:
        """The snapshot; raises Unavailable when it is too old to decide by."""
        if self._read_at is None or self._clock() - self._read_at > self._max_age_seconds:
            raise Unavailable("Keys and routes cannot be read right now; try again shortly.", retry_after_seconds=5)
        return self._snapshot

    def tenant_ids(self) -> list[str]:
        """Every tenant, also when the snapshot is old."""
        return self._snapshot.tenant_ids()

    def served(self) -> dict[str, AdapterVersion] | None:
        """Every version that an alias means now, by id; None while the snapshot is too old to act by."""
        stale = self._read_at is None or self._clock() - self._read_at > self._max_age_seconds
        return None if stale else self._snapshot.served()

    def wake(self) -> None:
        """Something has changed: read now rather than at the next poll."""
        self._woken.set()

    async def refresh(self) -> None:
        """Read what is newer than the snapshot, as of one instant; raises what SQL raises."""
        async with self._refreshing, self._engine.connect() as connection:
            await connection.exec_driver_sql(_ONE_INSTANT[connection.dialect.name])
            newest = (await connection.execute(select(policy_revision.c.revision))).scalar_one()
            changed = []
            if newest > self.revision:
                for table in _TABLES:
                    query = select(table).where(table.c.revision > self.revision)
                    changed += [(table, dict(row)) for row in (await connection.execute(query)).mappings()]
            for table, row in changed:
                self._snapshot.apply(table, row)
            self.revision = newest
            self._read_at = self._clock()

    async def run(self) -> None:
        """Refresh for ever: at every poll and whenever woken; an outage is waited out."""
        while True:
            try:
                async with asyncio.timeout(self._poll_seconds):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            try:
                await self.refresh()
            except (SQLAlchemyError, OSError) as exc:
                _logger.warning("policy_not_read", error=type(exc).__name__, age_seconds=round(self.age_seconds))


def _limits(row: Row) -> Limits:
    return Limits(**{name: row[name] for name in LIMITS})
