"""`tunegate limits|provider-keys|audit`, and what else is about money in the admin verbs."""

from __future__ import annotations

import sys
from typing import Annotated, Any
from urllib.parse import quote

import typer

from app.cli.client import AdminError, call, every
from app.cli.limits import limited
from app.cli.show import show

Json = Annotated[bool, typer.Option("--json", help="The API's JSON on standard output.")]
Team = Annotated[str | None, typer.Option(help="The team; without it the whole tenant.")]
RULE = ("id", "kind", "subject", "route", "limits")
PROVIDER_KEY = ("provider", "team_id")
AUDIT = ("revision", "at", "who", "object")


def limit_commands() -> dict[str, Any]:
    """Limits by user and by route."""

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
        show(call("PUT", f"/tenants/{_part(tenant)}/limits/{_part(rule)}", body), RULE, as_json=json)

    def listing(tenant: str, json: Json = False) -> None:
        """Show a tenant's rules."""
        show(every(f"/tenants/{_part(tenant)}/limits"), RULE, as_json=json)

    def delete(tenant: str, rule: str) -> None:
        """Take a rule away."""
        call("DELETE", f"/tenants/{_part(tenant)}/limits/{_part(rule)}")

    return {"put": put, "list": listing, "delete": delete}


def provider_key_commands() -> dict[str, Any]:
    """Keys of providers that tenants bring."""

    def put(tenant: str, provider: str, team: Team = None, json: Json = False) -> None:
        """Keep a key, read from standard input: an argument would stand in the process list."""
        secret = sys.stdin.readline().strip()
        if not secret:
            raise AdminError("expected the provider's key on standard input")
        body = {"key": secret, "team_id": team}
        path = f"/tenants/{_part(tenant)}/provider-keys/{_part(provider)}"
        show(call("PUT", path, body), PROVIDER_KEY, as_json=json)

    def listing(tenant: str, json: Json = False) -> None:
        """Show whose keys are kept, never the keys."""
        show(call("GET", f"/tenants/{_part(tenant)}/provider-keys"), PROVIDER_KEY, as_json=json)

    def delete(tenant: str, provider: str, team: Team = None) -> None:
        """Forget a key."""
        path = f"/tenants/{_part(tenant)}/provider-keys/{_part(provider)}"
        call("DELETE", path, query={"team_id": team})

    return {"put": put, "list": listing, "delete": delete}


def rotate_key(
    tenant: str,
    key: str,
    overlap_hours: Annotated[int, typer.Option(help="How long the present secret works on.", min=0, max=720)] = 24,
    json: Json = False,
) -> None:
    """Give a key a new secret, shown this once; the present one works on for a while."""
    body = {"overlap_seconds": overlap_hours * 3600}
    made = call("POST", f"/tenants/{_part(tenant)}/keys/{_part(key)}/rotate", body)
    show(made, ("id", "secret"), as_json=json)


def audit(
    about: Annotated[str | None, typer.Argument(help="One object, such as tenants/acme. Default: all.")] = None,
    limit: Annotated[int, typer.Option(help="So many changes, from the newest back.", min=1, max=1000)] = 50,
    json: Json = False,
) -> None:
    """Show who changed what; --json has the states before and after."""
    show(call("GET", "/audit", query={"object": about, "limit": limit}), AUDIT, as_json=json)


def _part(name: str) -> str:
    return quote(name, safe="")
