"""`tunegate cache`: forget answers, see how each route stands with its promise, begin it anew."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.admin.group import Command, Json, group_of
from app.cli.client import AdminError, call, every
from app.cli.show import show

PROMISE = ("tenant", "route", "standing", "threshold", "comparisons", "wrong", "false_hit_rate", "false_hit_budget")
WHY = (*PROMISE, "verify_share", "moved_at", "why")
Tenant = Annotated[str | None, typer.Option(help="Of this tenant only; without it of all.")]
Route = Annotated[str | None, typer.Option(help="Of this route.")]


def cache() -> typer.Typer:
    """Forget, look, re-arm."""
    commands: dict[str, Command] = {"forget": _forget, "promise": _promise, "rearm": _rearm}
    return group_of("Cached answers, and how far they can be trusted.", commands)


def _forget(
    tenant: Tenant = None,
    route: Route = None,
    variant: Annotated[str | None, typer.Option(help="Of this variant of the route.")] = None,
    adapter: Annotated[str | None, typer.Option(help="Of this adapter: a name, or a version's id.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before answers of all tenants are forgotten.")] = False,
    json: Json = False,
) -> None:
    """Forget answers, on all gateways at once. Where the route's semantic cache was off, it is on again."""
    if tenant is None and (route or adapter) and not yes:
        _confirm(f"Forget answers of {route or adapter} of all tenants?")
    query = {"tenant": tenant, "route": route, "variant": variant, "adapter": adapter}
    show(call("DELETE", "/cache", query=query), ("answers",), as_json=json)


def _promise(
    tenant: Tenant = None,
    route: Route = None,
    standing: Annotated[str | None, typer.Option(help="Only those that stand so: kept, raised or off.")] = None,
    json: Json = False,
) -> None:
    """Show which semantic caches hold, and why others need nearer hits or are off."""
    show(every("/cache/promises", {"tenant": tenant, "route": route, "standing": standing}), WHY, as_json=json)


def _rearm(route: str, tenant: Tenant = None, json: Json = False) -> None:
    """Switch a route's semantic cache on again, at its own threshold. Answers are kept."""
    show(call("POST", "/cache/promises/rearm", {"route": route, "tenant": tenant}), PROMISE, as_json=json)


def _confirm(question: str) -> None:
    """Go on after a yes only; raises AdminError for a no, and where nobody is there to say it."""
    try:
        said = typer.confirm(question, err=True)
    except typer.Abort:
        said = False
    if not said:
        raise AdminError("nothing was forgotten; say yes, or use --yes to leave the question out")
