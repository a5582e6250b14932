"""`/cache/promises`: what comparisons have found out about each semantic cache, and beginning anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from redis.exceptions import ResponseError

from app.api.admin.fields import PRINTABLE, Id, Listing, RouteName, Strict, Window
from app.api.admin.guard import Admin, AdminRoute
from app.cache.promise import NEW, Standing, threshold, why
from app.cache.promises import RoutePromise
from app.errors import NotFound, Unavailable
from app.storage.redis import RedisDown

router = APIRouter(prefix="/cache/promises", tags=["cache"], route_class=AdminRoute)


class PromiseQuery(Window):
    """Which promises; all of these must fit."""

    tenant: Id | None = None
    route: RouteName | None = None
    after: Annotated[str | None, Field(pattern=PRINTABLE, max_length=300, description="The last id before.")] = None
    standing: Annotated[Standing | None, Field(description="Only those that stand so.")] = None


class WhatToRearm(Strict):
    """A route with a semantic cache."""

    route: RouteName
    tenant: Annotated[Id | None, Field(description="Of this tenant only; without it of every tenant.")] = None


class PromiseJson(BaseModel):
    """One route as one tenant calls it.

    `standing`: `kept` at the route's own threshold, `raised` above it, or `off`, where only exact answers are found.
    `threshold` is the cosine that hits need now. `verify_share` of the hits are compared; of those `comparisons` so
    far, `wrong` differed. `false_hit_rate` is null before the first one.
    """

    object: str = "cache.promise"
    id: str
    tenant: str
    route: str
    standing: Standing
    why: str | None
    moved_at: Annotated[float | None, Field(description="When the threshold last moved; null: never.")]
    threshold: float
    route_threshold: float
    verify_share: float
    comparisons: int
    wrong: int
    false_hit_rate: float | None
    false_hit_budget: float

    @classmethod
    def of(cls, one: RoutePromise) -> PromiseJson:
        """The promise as JSON."""
        promise, policy = one.promise, one.route.cache
        trials, errors = promise.all_trials, promise.all_errors
        return cls(
            id=one.id,
            tenant=one.tenant_id,
            route=one.route.name,
            standing=one.standing,
            why=why(promise, policy.threshold),
            moved_at=promise.moved_at or None,
            threshold=round(threshold(promise, policy.threshold), 4),
            route_threshold=policy.threshold,
            verify_share=policy.verify_share,
            comparisons=trials,
            wrong=errors,
            false_hit_rate=round(errors / trials, 6) if trials else None,
            false_hit_budget=policy.false_hit_budget,
        )


@router.get("")
async def listing(query: Annotated[PromiseQuery, Query()], admin: Admin) -> Listing[PromiseJson]:
    """How each semantic cache stands with its promise, by tenant and route."""
    with _redis():
        found = await admin.promises.page(
            tenant_id=query.tenant,
            route=query.route,
            only=query.standing,
            after=query.after,
            limit=query.limit + 1,
        )
    shown = found[: query.limit]
    return Listing(data=[PromiseJson.of(one) for one in shown], has_more=len(found) > query.limit)


@router.post("/rearm")
async def rearm(what: WhatToRearm, admin: Admin) -> Listing[PromiseJson]:
    """Forget the evidence and go back to the route's own threshold; a cache that was off is on again.

    Answers are kept; what is wrong with them is found out anew. Returns what was re-armed, as it stands now.
    """
    if not admin.promises.knows(what.tenant, what.route):
        raise NotFound("There is no route of that name with a semantic cache.", param="route")
    with _redis():
        async with admin.change() as change:
            begun = await admin.promises.begin_anew(what.tenant, what.route)
            anew = [RoutePromise(one.tenant_id, one.route, NEW) for one in begun]
            for before, after in zip(map(PromiseJson.of, begun), map(PromiseJson.of, anew), strict=True):
                await admin.note(change, f"cache/{before.id}", before.model_dump(), after.model_dump())
    return Listing(data=[PromiseJson.of(one) for one in anew], has_more=False)


@contextmanager
def _redis() -> Iterator[None]:
    try:
        yield
    except (RedisDown, ResponseError) as exc:
        raise Unavailable("Redis does not answer, and the evidence is there. Try again.") from exc
