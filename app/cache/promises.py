"""How every route stands with its promise, for operators: what has been found out, and beginning anew.

Read in portions of one round trip each, from the hashes that every lookup reads anyway (`app.cache.state`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from app.cache.key import label
from app.cache.promise import NEW, Promise, Standing, standing
from app.cache.state import States
from app.storage.redis import RedisStore
from app.types import Route

PORTION = 500  # promises read in one turn: well below a millisecond of Redis

Place = tuple[str, Route]  # a tenant's id, and a route with a semantic cache that the tenant can name


@dataclass(frozen=True, slots=True)
class RoutePromise:
    """What is known of one route of one tenant."""

    tenant_id: str
    route: Route
    promise: Promise

    @property
    def id(self) -> str:
        """Its name among all promises: tenant and route."""
        return f"{self.tenant_id}/{self.route.name}"

    @property
    def standing(self) -> Standing:
        """How it stands."""
        return standing(self.promise, self.route.cache.threshold)


@dataclass(frozen=True, slots=True)
class Promises:
    """The promises of all tenants. `places` gives those of one tenant or (None) of all, by tenant and route."""

    store: RedisStore
    places: Callable[[str | None], Iterable[Place]]

    def knows(self, tenant_id: str | None, route: str) -> bool:
        """Whether there is such a route with a semantic cache, of this tenant or (None) of any."""
        return any(place[1].name == route for place in self.places(tenant_id))

    async def page(
        self,
        *,
        tenant_id: str | None = None,
        route: str | None = None,
        only: Standing | None = None,
        after: str | None = None,
        limit: int,
    ) -> list[RoutePromise]:
        """Up to `limit` promises behind the one of id `after`. Raises RedisDown or ResponseError."""
        chosen = (place for place in self.places(tenant_id) if route in (None, place[1].name) and _behind(place, after))
        found: list[RoutePromise] = []
        for portion in _portions(chosen):
            found += [one for one in await self._read(portion) if only in (None, one.standing)]
            if len(found) >= limit:
                break
        return found[:limit]

    async def begin_anew(self, tenant_id: str | None, route: str) -> list[RoutePromise]:
        """Forget the evidence about a route of one tenant or of all: what was off is on, at the route's own threshold.

        Returns what was forgotten, as it stood. Raises RedisDown or ResponseError.
        """
        states, begun = States(self.store), []
        for portion in _portions(place for place in self.places(tenant_id) if place[1].name == route):
            known = [one for one in await self._read(portion) if one.promise != NEW]
            await asyncio.gather(*(states.forget_promises(one.tenant_id, label(route)) for one in known))
            begun += known
        return begun

    async def census(self) -> dict[tuple[str, str], int]:
        """How many tenants' promises stand how, by route. Raises RedisDown or ResponseError."""
        counted: Counter[tuple[str, str]] = Counter()
        for portion in _portions(self.places(None)):
            counted.update((one.route.name, one.standing) for one in await self._read(portion))
        return dict(counted)

    async def _read(self, places: Sequence[Place]) -> list[RoutePromise]:
        states = States(self.store)
        promises = await asyncio.gather(*(states.promise(tenant_id, label(route.name)) for tenant_id, route in places))
        return [RoutePromise(*place, promise) for place, promise in zip(places, promises, strict=True)]


def _behind(place: Place, after: str | None) -> bool:
    if after is None:
        return True
    tenant_id, _, route = after.partition("/")
    return (place[0], place[1].name) > (tenant_id, route)


def _portions(places: Iterable[Place]) -> Iterator[list[Place]]:
    rest = iter(places)
    while portion := list(islice(rest, PORTION)):
        yield portion
