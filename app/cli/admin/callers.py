"""`tunegate tenants|teams|keys`: who may call, and within which limits."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from app.cli.admin.group import Command, Json, Name, group_of, part
from app.cli.client import AdminError, call, every
from app.cli.limits import limited
from app.cli.show import show

TENANT = ("id", "name", "limits", "created_at")
KEY = ("id", "name", "team_id", "prefix", "limits", "routes", "expires_at", "revoked_at")


def tenants() -> typer.Typer:
    """Make, change and delete tenants."""

    @limited
    def create(tenant: str, limits: dict[str, int | None], name: Name = None, json: Json = False) -> None:
        """Make a tenant."""
        show(call("POST", "/tenants", {"id": tenant, "name": name, "limits": limits}), TENANT, as_json=json)

    @limited
    def update(tenant: str, limits: dict[str, int | None], name: Name = None, json: Json = False) -> None:
        """Change a tenant's name or limits."""
        body = {"limits": limits, **({} if name is None else {"name": name})}
        show(call("PATCH", f"/tenants/{part(tenant)}", body), TENANT, as_json=json)

    def listing(json: Json = False) -> None:
        """Show every tenant."""
        show(every("/tenants"), TENANT, as_json=json)

    def one(tenant: str, json: Json = False) -> None:
        """Show one tenant."""
        show(call("GET", f"/tenants/{part(tenant)}"), TENANT, as_json=json)

    def delete(tenant: str) -> None:
        """Delete a tenant with all that belongs to it; its keys are refused at once."""
        call("DELETE", f"/tenants/{part(tenant)}")

    return group_of(
        "Tenants: the customers of the gateway.",
        {"create": create, "update": update, "list": listing, "show": one, "delete": delete},
    )


def teams() -> typer.Typer:
    """Make, change and delete teams."""

    @limited
    def create(tenant: str, team: str, limits: dict[str, int | None], name: Name = None, json: Json = False) -> None:
        """Make a team."""
        body = {"id": team, "name": name, "limits": limits}
        show(call("POST", f"/tenants/{part(tenant)}/teams", body), TENANT, as_json=json)

    @limited
    def update(tenant: str, team: str, limits: dict[str, int | None], name: Name = None, json: Json = False) -> None:
        """Change a team's name or limits."""
        body = {"limits": limits, **({} if name is None else {"name": name})}
        show(call("PATCH", f"/tenants/{part(tenant)}/teams/{part(team)}", body), TENANT, as_json=json)

    def listing(tenant: str, json: Json = False) -> None:
        """Show a tenant's teams."""
        show(every(f"/tenants/{part(tenant)}/teams"), TENANT, as_json=json)

    def delete(tenant: str, team: str) -> None:
        """Delete a team that has no key that works."""
        call("DELETE", f"/tenants/{part(tenant)}/teams/{part(team)}")

    return group_of(
        "Teams: parts of a tenant with limits of their own.",
        {"create": create, "update": update, "list": listing, "delete": delete},
    )


def keys() -> typer.Typer:
    """Make, change, revoke and rotate keys."""

    @limited
    def create(
        tenant: str,
        limits: dict[str, int | None],
        name: Name = None,
        team: Annotated[str | None, typer.Option(help="The key's team.")] = None,
        route: Annotated[list[str] | None, typer.Option(help="A model it may name; repeat. Default: all.")] = None,
        expires: Annotated[str | None, typer.Option(help="ISO 8601 instant, UTC unless it says.")] = None,
        json: Json = False,
    ) -> None:
        """Make a key. Its secret is shown this once."""
        body = {"name": name, "team_id": team, "routes": route or None, "limits": limits}
        made = call("POST", f"/tenants/{part(tenant)}/keys", {**body, "expires_at": _instant(expires)})
        show(made, ("id", "secret"), as_json=json)

    @limited
    def update(
        tenant: str,
        key: str,
        limits: dict[str, int | None],
        name: Name = None,
        expires: Annotated[str | None, typer.Option(help="ISO 8601 instant, UTC unless it says.")] = None,
        json: Json = False,
    ) -> None:
        """Change a key's name, limits or expiry."""
        body: dict[str, Any] = {"limits": limits}
        body |= {} if name is None else {"name": name}
        body |= {} if expires is None else {"expires_at": _instant(expires)}
        show(call("PATCH", f"/tenants/{part(tenant)}/keys/{part(key)}", body), KEY, as_json=json)

    def listing(tenant: str, json: Json = False) -> None:
        """Show a tenant's keys, without their secrets."""
        show(every(f"/tenants/{part(tenant)}/keys"), KEY, as_json=json)

    def revoke(tenant: str, key: str, json: Json = False) -> None:
        """Let a key work no more, for ever; felt within a second."""
        show(call("POST", f"/tenants/{part(tenant)}/keys/{part(key)}/revoke"), KEY, as_json=json)

    commands: dict[str, Command] = {
        "create": create,
        "update": update,
        "list": listing,
        "revoke": revoke,
        "rotate": _rotate,
    }
    return group_of("API keys of a tenant.", commands)


def _rotate(
    tenant: str,
    key: str,
    overlap_hours: Annotated[int, typer.Option(help="How long the present secret works on.", min=0, max=720)] = 24,
    json: Json = False,
) -> None:
    """Give a key a new secret, shown this once; the present one works on for a while."""
    body = {"overlap_seconds": overlap_hours * 3600}
    made = call("POST", f"/tenants/{part(tenant)}/keys/{part(key)}/rotate", body)
    show(made, ("id", "secret"), as_json=json)


def _instant(text: str | None) -> float | None:
    from datetime import UTC, datetime

    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise AdminError(f"--expires: expected an instant such as 2027-01-31T00:00, not '{text}'") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
