"""What tables share: the metadata with its naming of constraints, and the columns that many of them have."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Float, MetaData, String

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
SHARED = "*"  # the scope of a route that belongs to no tenant
LIMITS = (
    "requests_per_minute",
    "requests_burst",
    "tokens_per_minute",
    "tokens_burst",
    "tokens_per_day",
    "concurrent_requests",
    "budget_day_microusd",
    "budget_week_microusd",
    "budget_month_microusd",
    "budget_total_microusd",
    "spend_per_minute_microusd",
    "spend_surge_percent",
    "breaker",
)

metadata = MetaData(naming_convention=NAMES)


def limits() -> list[Column[Any]]:
    """One column for each limit; NULL means that there is none."""
    return [Column(name, String(10) if name == "breaker" else BigInteger, nullable=True) for name in LIMITS]


def tracked() -> tuple[Column[int], Column[bool], Column[float]]:
    """What lets every gateway read a change of the row: its revision, and a mark in place of a deletion."""
    return (
        Column("revision", BigInteger, nullable=False, index=True),
        Column("deleted", Boolean, nullable=False, default=False),
        Column("created_at", Float, nullable=False),
    )
