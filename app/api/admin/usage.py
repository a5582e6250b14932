"""`/usage`: sums of the ledger by any of its dimensions."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from io import StringIO
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, BeforeValidator, Field

from app.api.admin.fields import PRINTABLE, Strict
from app.api.admin.guard import Admin, AdminRoute
from app.api.admin.services import AdminServices
from app.storage.administration.change import outage
from app.storage.usage import GROUPS, SUMS, usage

router = APIRouter(prefix="/usage", tags=["usage"], route_class=AdminRoute)
Filter = Annotated[str | None, Field(default=None, pattern=PRINTABLE, max_length=200)]


def _groups(value: Any) -> Any:
    """Take `a,b` and repeated parameters alike."""
    sent = value if isinstance(value, list | tuple) else [value]
    names = tuple(name for part in sent for name in str(part).split(","))
    if len(set(names)) != len(names) or not set(names) <= set(GROUPS):
        raise ValueError(f"expected different names out of: {', '.join(GROUPS)}")
    return names


def _instant(value: Any) -> Any:
    """Take an ISO 8601 instant (UTC if it names no zone) or seconds since the epoch."""
    try:
        return float(value)
    except (TypeError, ValueError):
        pass
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError("expected seconds since the epoch or a date such as 2026-01-31") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


Instant = Annotated[
    float | None,
    BeforeValidator(_instant),
    Field(default=None, ge=0, le=10**11, allow_inf_nan=False, description="Seconds since the epoch, or ISO 8601."),
]


class UsageQuery(Strict):
    """Which entries, and how they are put together."""

    group_by: Annotated[tuple[str, ...], BeforeValidator(_groups)] = ("tenant",)
    since: Instant
    until: Instant
    tenant: Filter
    team: Filter
    key: Filter
    user: Filter
    route: Filter
    variant: Filter
    upstream: Filter
    model: Filter
    adapter_version: Filter
    outcome: Filter
    day: Filter

    def where(self) -> dict[str, str]:
        """The filters that were sent."""
        return {name: value for name in GROUPS if (value := getattr(self, name)) is not None}


class UsageJson(BaseModel):
    """Sums per group, money in whole micro-dollars. `complete` is false while the newest entries cannot be read."""

    object: str = "list"
    complete: bool
    data: list[dict[str, Any]]


@router.get("")
async def get(admin: Admin, query: Annotated[UsageQuery, Query()]) -> UsageJson:
    """Requests, tokens and cost per group; what has been settled is in the figures."""
    return await _sums(admin, query)


@router.get(".csv", response_class=Response, responses={200: {"content": {"text/csv": {}}}})
async def get_csv(admin: Admin, query: Annotated[UsageQuery, Query()]) -> Response:
    """The same as CSV, for spreadsheets; the header `x-complete` is `false` while the newest entries are missing."""
    found = await _sums(admin, query)
    text = StringIO()
    writer = csv.DictWriter(text, (*query.group_by, "requests", *SUMS), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in found.data)
    headers = {"x-complete": "true" if found.complete else "false"}
    return Response(text.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)


def _cell(value: Any) -> Any:
    """A value that no spreadsheet takes for a formula: names come from callers."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


async def _sums(admin: AdminServices, query: UsageQuery) -> UsageJson:
    complete = await admin.flushed()
    with outage():
        rows = await usage(
            admin.engine, group_by=query.group_by, where=query.where(), since=query.since, until=query.until
        )
    return UsageJson(complete=complete, data=rows)
