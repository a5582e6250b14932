"""`tunegate tenants`, `keys`, `routes`, `adapters`, `usage` and the rest of the verbs over the admin API."""

from __future__ import annotations

import typer

from app.cli.admin import adapters, cache, callers, money, pools, routes, usage
from app.cli.admin.group import plainly


def register(app: typer.Typer) -> None:
    """Add the admin commands."""
    for name, group in (
        ("tenants", callers.tenants()),
        ("teams", callers.teams()),
        ("keys", callers.keys()),
        ("routes", routes.routes()),
        ("adapters", adapters.adapters()),
        ("limits", money.limits()),
        ("provider-keys", money.provider_keys()),
        ("cache", cache.cache()),
        ("usage", usage.usage()),
    ):
        app.add_typer(group, name=name)
    app.command("pools")(pools.pools)
    app.command("audit")(plainly(money.audit))
