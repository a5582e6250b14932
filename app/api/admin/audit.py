"""`/audit`: who changed what, what it was before and what it is now. It can be read, and nothing else."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from app.api.admin.fields import PRINTABLE, Strict
from app.api.admin.guard import Admin, AdminRoute
from app.storage.administration import audit
from app.storage.administration.audit import AuditEntry

router = APIRouter(prefix="/audit", tags=["audit"], route_class=AdminRoute)


class AuditQuery(Strict):
    """Which entries, from the newest back."""

    object: Annotated[
        str | None,
        Field(default=None, pattern=PRINTABLE, max_length=300, description="One object, such as tenants/acme."),
    ]
    after: int | None = Field(default=None, ge=0, description="The last revision of the part before.")
    limit: int = Field(default=100, ge=1, le=1000, description="Entries in this part.")


class AuditJson(BaseModel):
    """One change of one object; `before` null where the log knows of no earlier state."""

    revision: int
    object: str
    at: float
    who: str
    before: dict[str, Any] | None
    after: dict[str, Any]

    @classmethod
    def of(cls, entry: AuditEntry) -> AuditJson:
        """The entry as JSON."""
        before = None if entry.before is None else dict(entry.before)
        return cls(
            revision=entry.revision,
            object=entry.object,
            at=entry.at,
            who=entry.who,
            before=before,
            after=dict(entry.after),
        )


class AuditListing(BaseModel):
    """A part of the log; ask again with `after` set to its last revision while there is more."""

    object: str = "list"
    data: list[AuditJson]
    has_more: bool


@router.get("")
async def get(admin: Admin, query: Annotated[AuditQuery, Query()]) -> AuditListing:
    """The log, newest first."""
    async with admin.read() as connection:
        page = await audit.listing(connection, about=query.object, after=query.after, limit=query.limit)
    return AuditListing(data=[AuditJson.of(entry) for entry in page.items], has_more=page.has_more)
