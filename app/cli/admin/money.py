"""`tunegate limits|provider-keys|audit`: rules about money, whose keys pay, and who changed what."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from app.cli.admin.group import Json, group_of, part
from app.cli.client import AdminError, call, every
from app.cli.limits import limited
from app.cli.show import show

Team = Annotated[str | None, typer.Option(help="The team; without it the whole tenant.")]
RULE = ("id", "kind", "subject", "route", "limits")
PROVIDER_KEY = ("provider", "team_id")
AUDIT = ("revision", "at", "who", "object")


def limits() -> typer.Typer:
    """Make and take away rules."""

    @limited
    def put(
        tenant: str,
        rule: str,
        limits: dict[str, Any],
        kind: Annotated[str, typer.Option(help="Whose calls: user, key, team or tenant.")],
        subject: Annotated[
            str | None, typer.Option(help="This user, key or team; without it each of its kind.")
        ] = None,
        route: Annotated[str | None, typer.Option(help="Calls of this model only.")] = None,
        json: Json = False,
    ) -> None:
        """Make or replace a rule; a user is named as callers name it, and kept as a hash."""
        body = {"kind": kind, "user" if kind == "user" else "subject": subject, "route": route, "limits": limits}
        show(call("PUT", f"/tenants/{part(tenant)}/limits/{part(rule)}", body), RULE, as_json=json)

    def listing(tenant: str, json: Json = False) -> None:
        """Show a tenant's rules."""
        show(every(f"/tenants/{part(tenant)}/limits"), RULE, as_json=json)

    def delete(tenant: str, rule: str) -> None:
        """Take a rule away."""
        call("DELETE", f"/tenants/{part(tenant)}/limits/{part(rule)}")

    return group_of("Limits by user and by route.", {"put": put, "list": listing, "delete": delete})


def provider_keys() -> typer.Typer:
    """Keep, list and forget keys."""

    def put(tenant: str, provider: str, team: Team = None, json: Json = False) -> None:
        """Keep a key, read from standard input: an argument would stand in the process list."""
        secret = sys.stdin.readline().strip()
        if not secret:
            raise AdminError("expected the provider's key on standard input")
        body = {"key": secret, "team_id": team}
        path = f"/tenants/{part(tenant)}/provider-keys/{part(provider)}"
        show(call("PUT", path, body), PROVIDER_KEY, as_json=json)

    def listing(tenant: str, json: Json = False) -> None:
        """Show whose keys are kept, never the keys."""
        show(call("GET", f"/tenants/{part(tenant)}/provider-keys"), PROVIDER_KEY, as_json=json)

    def delete(tenant: str, provider: str, team: Team = None) -> None:
        """Forget a key."""
        path = f"/tenants/{part(tenant)}/provider-keys/{part(provider)}"
        call("DELETE", path, query={"team_id": team})

    return group_of("Providers' keys that tenants bring.", {"put": put, "list": listing, "delete": delete})


def audit(
    about: Annotated[str | None, typer.Argument(help="One object, such as tenants/acme. Default: all.")] = None,
    limit: Annotated[int, typer.Option(help="So many changes, from the newest back.", min=1, max=1000)] = 50,
    json: Json = False,
) -> None:
    """Show who changed what; --json has the states before and after."""
    show(call("GET", "/audit", query={"object": about, "limit": limit}), AUDIT, as_json=json)
