"""The states of an adapter version, and moving aliases between versions by compare-and-set.

    pending ──> ready ──> draining ──> retired        pending, ready, draining ──> failed ──> retired
                  ^──────────┘

Only a ready or draining version can be given an alias; it is ready from then on. A version that loses its last alias
drains: calls in flight finish on it, gateways take it off their servers, and an alias may come back to it (a rollback).
A version that an alias means can be neither failed nor retired: move the alias first, so that no call is left without.
Every move happens inside a `Change`, which holds the revision's lock: compare and set cannot be torn apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import Conflict, NotFound
from app.storage.administration.change import Change, Row
from app.storage.tables import adapter_versions, aliases


class State(StrEnum):
    """Where a version is in its life."""

    PENDING = "pending"
    READY = "ready"
    DRAINING = "draining"
    RETIRED = "retired"
    FAILED = "failed"


MAY_BECOME: Mapping[State, frozenset[State]] = {
    State.PENDING: frozenset({State.READY, State.FAILED}),
    State.READY: frozenset({State.DRAINING, State.FAILED}),
    State.DRAINING: frozenset({State.READY, State.RETIRED, State.FAILED}),
    State.FAILED: frozenset({State.RETIRED}),
    State.RETIRED: frozenset(),
}
CALLABLE = frozenset({State.READY, State.DRAINING})


class Anything(StrEnum):
    """The expectation of a caller that expects nothing."""

    ANYTHING = "anything"


ANYTHING: Final = Anything.ANYTHING


@dataclass(frozen=True, slots=True)
class Alias:
    """What `name@alias` means for a tenant."""

    tenant_id: str
    name: str
    alias: str
    version_id: str


async def move(change: Change, version_id: str, to: State, reason: str | None = None) -> None:
    """Bring a version into another state; raises Conflict for a move that its state or an alias forbids."""
    now = await _state(change.connection, version_id)
    if now is to:
        return
    if to not in MAY_BECOME[now]:
        allowed = ", ".join(sorted(MAY_BECOME[now])) or "nothing else"
        raise Conflict(f"A version that is {now} cannot become {to}; it may become: {allowed}.", param="state")
    if to not in CALLABLE or to is State.DRAINING:
        meaning = await _meaning(change.connection, version_id)
        if meaning:
            raise Conflict(f"The alias '{meaning[0]}' means this version; move it first.", param="state")
    await _set_state(change, version_id, to, reason)


async def point(change: Change, alias: Alias, *, expected: str | Anything | None = ANYTHING) -> Alias:
    """Let the alias mean a version of its adapter; with `expected`, only if it means that one (or, None, nothing) now.

    Raises NotFound for a version of another adapter or tenant, Conflict when it cannot be called or is not expected.
    """
    target = await _version(change.connection, alias)
    now = await _alias(change.connection, alias)
    meant = None if now is None or now["deleted"] else str(now["version_id"])
    if expected is not ANYTHING and meant != expected:
        said = f"means {meant}" if meant else "means nothing"
        raise Conflict(f"The alias '{alias.alias}' {said}, not what was expected; look again.", param="expected")
    if State(target["state"]) not in CALLABLE:
        raise Conflict(f"The version is {target['state']}; only a ready one can be given an alias.", param="version")
    await _write(change, alias, known=now is not None, previous=meant)
    await _set_state(change, alias.version_id, State.READY, None)
    if meant is not None and meant != alias.version_id:
        await _drain_unless_meant(change, meant)
    return alias


async def roll_back(change: Change, tenant_id: str, name: str, alias: str) -> Alias:
    """Let the alias mean what it meant before its last move; raises NotFound, or Conflict without a way back."""
    place = Alias(tenant_id, name, alias, "")
    now = await _alias(change.connection, place)
    if now is None or now["deleted"]:
        raise NotFound("The adapter has no such alias.", param="alias")
    if now["previous_version_id"] is None:
        raise Conflict(f"The alias '{alias}' has meant one version only: there is no way back.", param="alias")
    back = Alias(tenant_id, name, alias, str(now["previous_version_id"]))
    return await point(change, back, expected=str(now["version_id"]))


async def drop(change: Change, tenant_id: str, name: str, alias: str) -> None:
    """Let the alias mean nothing; raises NotFound."""
    place = Alias(tenant_id, name, alias, "")
    now = await _alias(change.connection, place)
    if now is None or now["deleted"]:
        raise NotFound("The adapter has no such alias.", param="alias")
    marked = {"deleted": True, "previous_version_id": None, "revision": change.revision}
    await change.connection.execute(update(aliases).where(*_place(place)).values(marked))
    await _drain_unless_meant(change, str(now["version_id"]))


async def _write(change: Change, alias: Alias, *, known: bool, previous: str | None) -> None:
    moved = previous is not None and previous != alias.version_id
    values = {"version_id": alias.version_id, "deleted": False, "revision": change.revision}
    if moved:
        values["previous_version_id"] = previous
    if known:
        await change.connection.execute(update(aliases).where(*_place(alias)).values(values))
    else:
        await change.connection.execute(aliases.insert().values({**asdict(alias), **change.new()}))


async def _drain_unless_meant(change: Change, version_id: str) -> None:
    if not await _meaning(change.connection, version_id):
        await _set_state(change, version_id, State.DRAINING, None)


async def _set_state(change: Change, version_id: str, to: State, reason: str | None) -> None:
    values = {"state": to.value, "state_reason": reason, "state_at": change.now, "revision": change.revision}
    await change.connection.execute(update(adapter_versions).where(adapter_versions.c.id == version_id).values(values))


async def _state(connection: AsyncConnection, version_id: str) -> State:
    query = select(adapter_versions.c.state).where(adapter_versions.c.id == version_id, ~adapter_versions.c.deleted)
    found = await connection.scalar(query)
    if found is None:
        raise NotFound("There is no such version.", param="version")
    return State(found)


async def _meaning(connection: AsyncConnection, version_id: str) -> list[str]:
    query = select(aliases.c.alias).where(aliases.c.version_id == version_id, ~aliases.c.deleted)
    return [str(alias) for alias in (await connection.scalars(query.order_by(aliases.c.alias))).all()]


async def _version(connection: AsyncConnection, alias: Alias) -> Row:
    query = select(adapter_versions).where(
        adapter_versions.c.id == alias.version_id,
        adapter_versions.c.tenant_id == alias.tenant_id,
        adapter_versions.c.name == alias.name,
        ~adapter_versions.c.deleted,
    )
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound("The tenant's adapter has no such version.", param="version")
    return row


async def _alias(connection: AsyncConnection, alias: Alias) -> Row | None:
    return (await connection.execute(select(aliases).where(*_place(alias)))).mappings().one_or_none()


def _place(alias: Alias) -> tuple[ColumnElement[bool], ...]:
    return (aliases.c.tenant_id == alias.tenant_id, aliases.c.name == alias.name, aliases.c.alias == alias.alias)
