"""What an alias means: adapter versions, aliases, and the tenants' rules for calls whose adapter is not loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.storage.administration.lifecycle import CALLABLE
from app.types import AdapterVersion, ColdStart

_USUAL = ColdStart()
Row = Mapping[str, Any]


class Adapters:
    """Rows in, versions out."""

    def __init__(self) -> None:
        self._versions: dict[str, AdapterVersion] = {}
        self._aliases: dict[tuple[str, str, str], str] = {}
        self._previous: dict[tuple[str, str, str], str] = {}
        self._callable: set[str] = set()
        self._cold_starts: dict[str, ColdStart] = {}

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

    def apply_version(self, row: Row) -> None:
        """A version; only a ready or draining one stands in for another."""
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

    def apply_alias(self, row: Row) -> None:
        """An alias and what it meant before."""
        place = (row["tenant_id"], row["name"], row["alias"])
        if row["deleted"]:
            self._aliases.pop(place, None)
            self._previous.pop(place, None)
            return
        self._aliases[place] = row["version_id"]
        if row["previous_version_id"] is not None:
            self._previous[place] = row["previous_version_id"]

    def apply_cold_start(self, row: Row) -> None:
        """A tenant's rule for calls whose adapter is not loaded."""
        self._cold_starts[row["tenant_id"]] = ColdStart(row["wait_ms"], row["previous"])


def reference_of(lineage: Mapping[str, Any] | None) -> tuple[tuple[str, tuple[tuple[str, float], ...]], ...]:
    """What the version's maker says that it answers: `next_tokens` of its lineage, checked when it was registered."""
    said = (lineage or {}).get("next_tokens") or {}
    return tuple((prompt, tuple(sorted(top.items()))) for prompt, top in sorted(said.items()))
