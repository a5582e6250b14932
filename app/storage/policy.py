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
from app.storage.administration.lifecycle import CALLABLE
from app.storage.spec import RouteJson
from app.storage.tables import (
    LIMITS,
    SHARED,
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
from app.types import (
    Account,
    AccountKind,
    AdapterVersion,
    ColdStart,
    KeyRecord,
    LimitRule,
    Limits,
    Operation,
    Principal,
    Route,
)

_ONE_INSTANT = {"postgresql": "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "sqlite": "BEGIN"}
_TABLES = (tenants, teams, keys, routes, adapter_versions, aliases, limit_rules, cold_starts, provider_keys)
_USUAL = ColdStart()
_logger = structlog.get_logger()
Row = Mapping[str, Any]


Unseal = Callable[[bytes, tuple[str, ...]], str]


def _sealed(_sealed_key: bytes, _place: tuple[str, ...]) -> str:
    """Without a master key no tenant's provider key can be used: the empty one, which the router refuses by."""
    return ""


class PolicySnapshot:
    """Implements `app.interfaces.Policy`; changed only by `apply`, in one step between two requests."""

    def __init__(self, unseal: Unseal = _sealed) -> None:
        self._tenants: dict[str, Limits] = {}
        self._teams: dict[tuple[str, str], Limits] = {}
        self._keys: dict[bytes, Row] = {}
        self._digests: dict[str, tuple[bytes, ...]] = {}
        self._credentials: dict[tuple[str, str], dict[str, str]] = {}
        self._open = unseal
        self._gone: set[str | tuple[str, str]] = set()
        self._records: dict[bytes, KeyRecord] = {}
        self._routes: dict[tuple[str, str], Route] = {}
        self._versions: dict[str, AdapterVersion] = {}
        self._aliases: dict[tuple[str, str, str], str] = {}
        self._previous: dict[tuple[str, str, str], str] = {}
        self._callable: set[str] = set()
        self._cold_starts: dict[str, ColdStart] = {}
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

    def previous_adapter(self, tenant_id: str, name: str, alias: str) -> AdapterVersion | None:
        """The version that the alias pointed at before, if it can still be called."""
        version = self._versions.get(self._previous.get((tenant_id, name, alias), ""))
        callable_still = version is not None and version.tenant_id == tenant_id and version.id in self._callable
        return version if callable_still else None

    def cold_start(self, tenant_id: str) -> ColdStart:
        """The tenant's rule for calls whose adapter is not loaded."""
        return self._cold_starts.get(tenant_id, _USUAL)

    def served(self) -> dict[str, AdapterVersion]:
        """Every version that a call may be sent to, by id: what an alias means, or meant before if that may answer."""
        spare = {
            version_id
            for place, version_id in self._previous.items()
            if version_id in self._callable and self.cold_start(place[0]).previous
        }
        wanted = {*self._aliases.values(), *spare}
        return {version_id: self._versions[version_id] for version_id in wanted if version_id in self._versions}

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
            cold_starts: self._cold_start,
            limit_rules: self._rule,
            provider_keys: self._provider_key,
        }[table](row)

    def _tenant(self, row: Row) -> None:
        self._tenants[row["id"]] = _limits(row)
        if row["deleted"]:
            self._gone.add(row["id"])
        self._records.clear()

    def _team(self, row: Row) -> None:
        self._teams[row["tenant_id"], row["id"]] = _limits(row)
        self._records.clear()
        if row["deleted"]:  # its keys keep its limits, tokens no longer name it
            self._gone.add((row["tenant_id"], row["id"]))
        else:
            self._gone.discard((row["tenant_id"], row["id"]))

    def _key(self, row: Row) -> None:
        for digest in self._digests.pop(row["id"], ()):
            self._records.pop(digest, None)
            self._keys.pop(digest, None)
        now, before = bytes(row["digest"]), row["previous_digest"]
        self._keys[now] = row
        self._digests[row["id"]] = (now,)
        if before is not None:  # rotated: the old secret is the same key for a while
            ends = [end for end in (row["previous_until"], row["expires_at"]) if end is not None]
            self._keys[bytes(before)] = {**row, "expires_at": min(ends, default=None)}
            self._digests[row["id"]] = (now, bytes(before))

    def _provider_key(self, row: Row) -> None:
        place = (row["tenant_id"], row["team_id"], row["provider"])
        kept = self._credentials.setdefault(place[:2], {})
        if row["deleted"]:
            kept.pop(row["provider"], None)
        else:
            kept[row["provider"]] = self._open(bytes(row["sealed_key"]), place)
        self._records.clear()

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
            self._callable.discard(row["id"])
            return
        if row["state"] in CALLABLE:
            self._callable.add(row["id"])
        else:
            self._callable.discard(row["id"])
        fields = ("id", "tenant_id", "name", "sha256", "path", "base_model", "rank")
        reference = reference_of(row["lineage"])
        self._versions[row["id"]] = AdapterVersion(**{field: row[field] for field in fields}, reference=reference)

    def _alias(self, row: Row) -> None:
        place = (row["tenant_id"], row["name"], row["alias"])
        if row["deleted"]:
            self._aliases.pop(place, None)
            self._previous.pop(place, None)
            return
        self._aliases[place] = row["version_id"]
        if row["previous_version_id"] is not None:
            self._previous[place] = row["previous_version_id"]

    def _cold_start(self, row: Row) -> None:
        self._cold_starts[row["tenant_id"]] = ColdStart(row["wait_ms"], row["previous"])

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

    def principal(
        self,
        tenant_id: str,
        team_id: str | None,
        key_id: str,
        operations: frozenset[Operation],
        routes: frozenset[str] | None,
    ) -> Principal | None:
        """A caller whom a token names; None when the tenant or the team is not known (any more)."""
        team = (tenant_id, team_id or "")
        known_team = team_id is None or (team in self._teams and team not in self._gone)
        if tenant_id not in self._tenants or tenant_id in self._gone or not known_team:
            return None
        return self._caller(tenant_id, team_id, Account(AccountKind.KEY, key_id, Limits()), operations, routes)

    def _record(self, row: Row) -> KeyRecord:
        principal = self._caller(
            row["tenant_id"],
            row["team_id"],
            Account(AccountKind.KEY, row["id"], _limits(row)),
            frozenset(Operation(name) for name in row["operations"]),
            None if row["routes"] is None else frozenset(row["routes"]),
        )
        return KeyRecord(principal, row["expires_at"], revoked=row["revoked_at"] is not None or row["deleted"])

    def _caller(
        self,
        tenant_id: str,
        team_id: str | None,
        key: Account,
        operations: frozenset[Operation],
        routes: frozenset[str] | None,
    ) -> Principal:
        accounts = [key]
        if team_id is not None:
            accounts.append(Account(AccountKind.TEAM, team_id, self._teams.get((tenant_id, team_id), Limits())))
        accounts.append(Account(AccountKind.TENANT, tenant_id, self._tenants.get(tenant_id, Limits())))
        own = self._credentials.get((tenant_id, ""), {})
        return Principal(
            tenant_id=tenant_id,
            team_id=team_id,
            key_id=key.id,
            operations=operations,
            routes=routes,
            accounts=tuple(accounts),
            rules=self._rules_of(tenant_id, accounts),
            credentials={**own, **self._credentials.get((tenant_id, team_id or ""), {})},
        )


class PolicyReader:
    """Keeps one snapshot fresh."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        poll_seconds: float = 0.5,
        max_age_seconds: float = 900.0,
        clock: Callable[[], float] = time.monotonic,
        unseal: Unseal = _sealed,
    ) -> None:
        self._engine = engine
        self._poll_seconds = poll_seconds
        self._max_age_seconds = max_age_seconds
        self._clock = clock
        self._snapshot = PolicySnapshot(unseal)
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


def reference_of(lineage: Mapping[str, Any] | None) -> tuple[tuple[str, tuple[tuple[str, float], ...]], ...]:
    """What the version's maker says that it answers: `next_tokens` of its lineage, checked when it was registered."""
    said = (lineage or {}).get("next_tokens") or {}
    return tuple((prompt, tuple(sorted(top.items()))) for prompt, top in sorted(said.items()))


def _limits(row: Row) -> Limits:
    return Limits(**{name: row[name] for name in LIMITS})
