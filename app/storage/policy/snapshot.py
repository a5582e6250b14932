"""One state of the policy: what the request's way looks up, changed row by row as revisions are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Table

from app.storage.policy.adapters import Adapters
from app.storage.policy.callers import Callers, Unseal, sealed
from app.storage.spec import RouteJson
from app.storage.tables import (
    SHARED,
    adapter_versions,
    aliases,
    cold_starts,
    keys,
    limit_rules,
    provider_keys,
    routes,
    teams,
    tenants,
)
from app.types import AdapterVersion, ColdStart, KeyRecord, Operation, Principal, Route

Row = Mapping[str, Any]


class PolicySnapshot:
    """Implements `app.interfaces.Policy`; changed only by `apply`, in one step between two requests."""

    def __init__(self, unseal: Unseal = sealed) -> None:
        self._callers = Callers(unseal)
        self._adapters = Adapters()
        self._routes: dict[tuple[str, str], Route] = {}
        self._appliers: dict[Table, Callable[[Row], None]] = {
            tenants: self._callers.apply_tenant,
            teams: self._callers.apply_team,
            keys: self._callers.apply_key,
            limit_rules: self._callers.apply_rule,
            provider_keys: self._callers.apply_provider_key,
            routes: self._apply_route,
            adapter_versions: self._adapters.apply_version,
            aliases: self._adapters.apply_alias,
            cold_starts: self._adapters.apply_cold_start,
        }

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables whose rows it is made of."""
        return tuple(self._appliers)

    def apply(self, table: Table, row: Row) -> None:
        """Take over one changed row."""
        self._appliers[table](row)

    def key(self, digest: bytes) -> KeyRecord | None:
        """The key whose secret has this SHA-256 digest (32 bytes)."""
        return self._callers.key(digest)

    def principal(
        self,
        tenant_id: str,
        team_id: str | None,
        key_id: str,
        operations: frozenset[Operation],
        routes: frozenset[str] | None,
    ) -> Principal | None:
        """A caller whom a token names; None when the tenant or the team is not known (any more)."""
        return self._callers.principal(tenant_id, team_id, key_id, operations, routes)

    def tenant_ids(self) -> list[str]:
        """Every tenant, deleted ones too: their ledgers may still hold something."""
        return self._callers.tenant_ids()

    def route(self, tenant_id: str, name: str) -> Route | None:
        """The tenant's own route of that name, else the shared one."""
        return self._routes.get((tenant_id, name)) or self._routes.get((SHARED, name))

    def routes(self, tenant_id: str) -> Sequence[Route]:
        """Every route the tenant can name, sorted by name."""
        found = {name: route for (scope, name), route in self._routes.items() if scope == SHARED}
        found |= {name: route for (scope, name), route in self._routes.items() if scope == tenant_id}
        return [found[name] for name in sorted(found)]

    def cached_by_meaning(self, tenant_id: str | None = None) -> Iterator[tuple[str, Route]]:
        """Tenants that are there, each with those of its routes that have a semantic cache; sorted by both names.

        Of one tenant or of all. What is given is as it was when this was asked, however long the reading takes.
        """
        own: dict[str, dict[str, Route]] = {}
        for (scope, name), route in self._routes.items():
            own.setdefault(scope, {})[name] = route
        shared = {name: route for name, route in own.pop(SHARED, {}).items() if route.cache.semantic}
        tenants_present = sorted(one for one in self._callers.present() if tenant_id in (None, one))
        return ((tenant, route) for tenant in tenants_present for route in _by_meaning(shared, own.get(tenant, {})))

    def adapter(self, tenant_id: str, name: str, alias: str) -> AdapterVersion | None:
        """The version that the tenant's alias points at."""
        return self._adapters.adapter(tenant_id, name, alias)

    def previous_adapter(self, tenant_id: str, name: str, alias: str) -> AdapterVersion | None:
        """The version that the alias pointed at before, if it can still be called."""
        return self._adapters.previous_adapter(tenant_id, name, alias)

    def cold_start(self, tenant_id: str) -> ColdStart:
        """The tenant's rule for calls whose adapter is not loaded."""
        return self._adapters.cold_start(tenant_id)

    def served(self) -> dict[str, AdapterVersion]:
        """Every version that a call may be sent to, by id: what an alias means, or meant before if that may answer."""
        return self._adapters.served()

    def _apply_route(self, row: Row) -> None:
        place = (row["scope"], row["name"])
        if row["deleted"]:
            self._routes.pop(place, None)
            return
        tenant_id = None if row["scope"] == SHARED else row["scope"]
        spec = RouteJson.model_validate(row["spec"])
        self._routes[place] = spec.value(row["name"], tenant_id, int(row["created_at"]))


def _by_meaning(shared: Mapping[str, Route], own: Mapping[str, Route]) -> list[Route]:
    """A tenant's own route hides the shared one of its name, also when only the shared one has a semantic cache."""
    named = [*(route for name, route in shared.items() if name not in own), *own.values()]
    return sorted((route for route in named if route.cache.semantic), key=lambda route: route.name)
