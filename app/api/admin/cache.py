"""`/cache`: answers that operators want forgotten."""

from __future__ import annotations

from typing import Annotated

import structlog
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from redis.exceptions import ResponseError

from app.api.admin.fields import Id, RouteName, Strict
from app.api.admin.guard import Admin, AdminRoute
from app.api.admin.services import AdminServices
from app.cache.forget import Selection
from app.errors import InvalidRequest, Unavailable
from app.storage.redis import RedisDown

router = APIRouter(prefix="/cache", tags=["cache"], route_class=AdminRoute)
_logger = structlog.get_logger()


class What(Strict):
    """Which answers; at least one of these."""

    tenant: Id | None = None
    route: RouteName | None = None
    variant: Annotated[str | None, Field(max_length=63, description="One arm of `route`.")] = None
    adapter: Annotated[str | None, Field(max_length=200, description="A name, or a version (`tenant--name@sha`).")] = (
        None
    )

    def selection(self) -> Selection:
        """The same for the cache; raises InvalidRequest where it says nothing or too much."""
        if self == What():
            raise InvalidRequest("tenant: say whose answers, or which route or adapter", param="tenant")
        if self.variant is not None and self.route is None:
            raise InvalidRequest("route: expected with variant, for variants belong to a route", param="route")
        if self.adapter is not None and self.route is not None:
            raise InvalidRequest("adapter: expected without route; ask once for each", param="adapter")
        return Selection(self.tenant, self.route, self.variant, self.adapter)


class Forgotten(BaseModel):
    """How many answers were deleted; those still being made are not kept either."""

    object: str = "cache.deleted"
    answers: int


@router.delete("")
async def forget(what: Annotated[What, Query()], admin: Admin) -> Forgotten:
    """Forget answers, on every gateway at once; a semantic cache that had switched itself off is on again.

    Fail mode: open. What must not be found again is forgotten also while SQL is away; the audit log lacks it then, and
    the gateway's own log has it.
    """
    selection = what.selection()
    try:
        answers = await admin.forget_answers(selection)
    except (RedisDown, ResponseError) as exc:
        await _noted(admin, what, None)
        raise Unavailable("Redis does not answer; answers may still be found. Try again.") from exc
    await _noted(admin, what, answers)
    return Forgotten(answers=answers)


async def _noted(admin: AdminServices, what: What, answers: int | None) -> None:
    """Tell the audit log; `answers` None where Redis went away before all were deleted."""
    asked = what.model_dump(exclude_none=True)
    about = f"cache/{what.tenant or '*'}/{what.route or what.adapter or '*'}"
    try:
        async with admin.change() as change:
            await admin.note(change, about, None, {"forgotten": asked, "answers": answers})
    except Unavailable:
        _logger.warning("forgetting_not_audited", forgotten=asked, answers=answers)
