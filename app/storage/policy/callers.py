"""Who may call: tenants, teams, keys, their limits and provider keys, put together as the principal of a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.storage.tables import LIMITS
from app.types import Account, AccountKind, KeyRecord, LimitRule, Limits, Operation, Principal

Row = Mapping[str, Any]
Unseal = Callable[[bytes, tuple[str, ...]], str]


def sealed(_sealed_key: bytes, _place: tuple[str, ...]) -> str:
    """Without a master key no tenant's provider key can be used: the empty one, which the router refuses by."""
    return ""


class Callers:
    """Rows in, principals out. A key's record is put together once, and anew after a change of what it is made of."""

    def __init__(self, unseal: Unseal) -> None:
        self._open = unseal
        self._tenants: dict[str, Limits] = {}
        self._teams: dict[tuple[str, str], Limits] = {}
        self._keys: dict[bytes, Row] = {}
        self._digests: dict[str, tuple[bytes, ...]] = {}
        self._credentials: dict[tuple[str, str], dict[str, str]] = {}
        self._rules: dict[str, dict[str, LimitRule]] = {}
        self._gone: set[str | tuple[str, str]] = set()
        self._records: dict[bytes, KeyRecord] = {}

    def key(self, digest: bytes) -> KeyRecord | None:
        """The key whose secret has this SHA-256 digest (32 bytes)."""
        record = self._records.get(digest)
        if record is None and (row := self._keys.get(digest)) is not None:
            record = self._records[digest] = self._record(row)
        return record

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

    def tenant_ids(self) -> list[str]:
        """Every tenant, deleted ones too: their ledgers may still hold something."""
        return list(self._tenants)

    def present(self) -> list[str]:
        """Every tenant that is not deleted."""
        return [tenant_id for tenant_id in self._tenants if tenant_id not in self._gone]

    def apply_tenant(self, row: Row) -> None:
        """A tenant; a deleted one keeps its limits for what is still to be settled, and no token names it."""
        self._tenants[row["id"]] = _limits(row)
        if row["deleted"]:
            self._gone.add(row["id"])
        self._records.clear()

    def apply_team(self, row: Row) -> None:
        """A team; a deleted one's keys keep its limits, and no token names it."""
        self._teams[row["tenant_id"], row["id"]] = _limits(row)
        self._records.clear()
        if row["deleted"]:
            self._gone.add((row["tenant_id"], row["id"]))
        else:
            self._gone.discard((row["tenant_id"], row["id"]))

    def apply_key(self, row: Row) -> None:
        """A key; a rotated one is found by its old secret too, until that ends."""
        for digest in self._digests.pop(row["id"], ()):
            self._records.pop(digest, None)
            self._keys.pop(digest, None)
        now, before = bytes(row["digest"]), row["previous_digest"]
        self._keys[now] = row
        self._digests[row["id"]] = (now,)
        if before is not None:
            ends = [end for end in (row["previous_until"], row["expires_at"]) if end is not None]
            self._keys[bytes(before)] = {**row, "expires_at": min(ends, default=None)}
            self._digests[row["id"]] = (now, bytes(before))

    def apply_provider_key(self, row: Row) -> None:
        """A provider key of the tenant or of one of its teams."""
        place = (row["tenant_id"], row["team_id"], row["provider"])
        kept = self._credentials.setdefault(place[:2], {})
        if row["deleted"]:
            kept.pop(row["provider"], None)
        else:
            kept[row["provider"]] = self._open(bytes(row["sealed_key"]), place)
        self._records.clear()

    def apply_rule(self, row: Row) -> None:
        """A limit by kind of account, subject and route."""
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


def _limits(row: Row) -> Limits:
    return Limits(**{name: row[name] for name in LIMITS})
