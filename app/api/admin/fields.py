"""Fields that the resources of the admin API share: names, limits, listings. Unknown fields are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

from app.storage.administration.change import Page
from app.types import BreakerPolicy, Limits

ID_PATTERN = r"^[a-z0-9]+(-[a-z0-9]+)*$"  # never `--`: that parts tenant and adapter in a version's name
PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
Id = Annotated[str, Field(pattern=ID_PATTERN, max_length=63, description="Small letters, digits, single hyphens.")]
Title = Annotated[str, Field(pattern=PRINTABLE, max_length=200, description="Free text for people, in one line.")]
RouteName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]*(/[A-Za-z0-9][A-Za-z0-9._:@-]*)*$",
        max_length=200,
        description="A public model name: letters, digits, `._:@-`, parts divided by single slashes.",
    ),
]
TenantId = Annotated[Id, Path(description="The tenant.")]
_PerMinute = Annotated[int | None, Field(strict=True, ge=0, le=10**9)]
_Burst = Annotated[int | None, Field(strict=True, ge=1, le=10**9)]
_Percent = Annotated[int | None, Field(strict=True, ge=101, le=100_000)]
_Amount = Annotated[int | None, Field(strict=True, ge=0, le=10**15)]
T = TypeVar("T")
J = TypeVar("J", bound=BaseModel)


class Strict(BaseModel):
    """A body or query: nothing unknown, nothing guessed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LimitsJson(Strict):
    """What an account may use; null or absent is no limit. Budgets are whole micro-dollars (1 USD is 1000000)."""

    requests_per_minute: _PerMinute = None
    requests_burst: _Burst = None
    tokens_per_minute: _PerMinute = None
    tokens_burst: _Burst = None
    tokens_per_day: _Amount = None
    concurrent_requests: _PerMinute = None
    budget_day_microusd: _Amount = None
    budget_week_microusd: _Amount = None
    budget_month_microusd: _Amount = None
    budget_total_microusd: _Amount = None
    spend_per_minute_microusd: _Amount = None
    spend_surge_percent: _Percent = None
    breaker: BreakerPolicy | None = None

    def onto(self, present: Limits) -> Limits:
        """The present limits with those that were sent, null included, in their place."""
        return replace(present, **{name: getattr(self, name) for name in self.model_fields_set})

    @classmethod
    def of(cls, limits: Limits) -> LimitsJson:
        """The same as JSON."""
        return cls(**{name: getattr(limits, name) for name in cls.model_fields})


class Window(Strict):
    """Which part of a listing."""

    after: str | None = Field(
        default=None, pattern=PRINTABLE, max_length=200, description="The last id of the part before."
    )
    limit: int = Field(default=100, ge=1, le=1000, description="Items in this part.")


Part = Annotated[Window, Query()]


class Listing(BaseModel, Generic[J]):
    """A part of a listing; ask again with `after` set to the last item's id while there is more."""

    object: str = "list"
    data: list[J]
    has_more: bool

    @classmethod
    def of(cls, page: Page[T], make: Callable[[T], J]) -> Listing[J]:
        """The page as JSON."""
        return cls(data=[make(item) for item in page.items], has_more=page.has_more)


def sent(body: BaseModel, *names: str) -> dict[str, Any]:
    """Those of the named fields that the caller sent, null included: what a PATCH replaces."""
    return {name: getattr(body, name) for name in names if name in body.model_fields_set}
