"""`tunegate tenants|teams|keys|routes|adapters|usage`: the admin verbs, over the admin API."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from app.cli import money
from app.cli.client import AdminError, call, every
from app.cli.limits import limited
from app.cli.show import show

Json = Annotated[bool, typer.Option("--json", help="The API's JSON on standard output.")]
Name = Annotated[str | None, typer.Option(help="A name for people.")]
Owner = Annotated[str | None, typer.Option("--tenant", help="Of this tenant; without it shared by all.")]
TENANT = ("id", "name", "limits", "created_at")
KEY = ("id", "name", "team_id", "prefix", "limits", "routes", "expires_at", "revoked_at")
VERSION = ("id", "state", "aliases", "rank", "base_model", "created_at")
SUMS = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "cost_microusd", "saved_microusd")


def register(app: typer.Typer) -> None:
    """Add the admin commands."""
    for name, group in (
        ("tenants", _tenants()),
        ("teams", _teams()),
        ("keys", _keys()),
        ("routes", _routes()),
        ("adapters", _adapters()),
        ("limits", _with(_group("Limits by user and by route."), money.limit_commands())),
        ("provider-keys", _with(_group("Providers' keys that tenants bring."), money.provider_key_commands())),
    ):
        app.add_typer(group, name=name)
    app.command("audit")(_plainly(money.audit))
    app.add_typer(_usage_group(), name="usage")


def _group(says: str) -> typer.Typer:
    return typer.Typer(help=says, no_args_is_help=True, rich_markup_mode=None)


def _plainly(command: Callable[..., None]) -> Callable[..., None]:
    """Say an AdminError in one line on standard error and leave with 1."""

    @wraps(command)
    def plain(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except AdminError as exc:
            typer.echo(f"tunegate: {exc}", err=True)
            raise typer.Exit(1) from None

    return plain


def _tenants() -> typer.Typer:
    group = _group("Tenants: the customers of the gateway.")

    @limited
    def create(tenant: str, limits: dict[str, int | None], name: Name = None, json: Json = False) -> None:
        """Make a tenant."""
        show(call("POST", "/tenants", {"id": tenant, "name": name, "limits": limits}), TENANT, as_json=json)

    @limited
    def update(tenant: str, limits: dict[str, int | None], name: Name = None, json: Json = False) -> None:
        """Change a tenant's name or limits."""
        body = {"limits": limits, **({} if name is None else {"name": name})}
        show(call("PATCH", f"/tenants/{_part(tenant)}", body), TENANT, as_json=json)

    def listing(json: Json = False) -> None:
        """Show every tenant."""
        show(every("/tenants"), TENANT, as_json=json)

    def one(tenant: str, json: Json = False) -> None:
        """Show one tenant."""
        show(call("GET", f"/tenants/{_part(tenant)}"), TENANT, as_json=json)

    def delete(tenant: str) -> None:
        """Delete a tenant with all that belongs to it; its keys are refused at once."""
        call("DELETE", f"/tenants/{_part(tenant)}")

    return _with(group, {"create": create, "update": update, "list": listing, "show": one, "delete": delete})


def _teams() -> typer.Typer:
    group = _group("Teams: parts of a tenant with limits of their own.")

    @limited
    def create(tenant: str, team: str, limits: dict[str, int | None], name: Name = None, json: Json = False) -> None:
        """Make a team."""
        body = {"id": team, "name": name, "limits": limits}
        show(call("POST", f"/tenants/{_part(tenant)}/teams", body), TENANT, as_json=json)

    @limited
    def update(tenant: str, team: str, limits: dict[str, int | None], name: Name = None, json: Json = False) -> None:
        """Change a team's name or limits."""
        body = {"limits": limits, **({} if name is None else {"name": name})}
        show(call("PATCH", f"/tenants/{_part(tenant)}/teams/{_part(team)}", body), TENANT, as_json=json)

    def listing(tenant: str, json: Json = False) -> None:
        """Show a tenant's teams."""
        show(every(f"/tenants/{_part(tenant)}/teams"), TENANT, as_json=json)

    def delete(tenant: str, team: str) -> None:
        """Delete a team that has no key that works."""
        call("DELETE", f"/tenants/{_part(tenant)}/teams/{_part(team)}")

    return _with(group, {"create": create, "update": update, "list": listing, "delete": delete})


def _keys() -> typer.Typer:
    group = _group("API keys of a tenant.")

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
        made = call("POST", f"/tenants/{_part(tenant)}/keys", {**body, "expires_at": _instant(expires)})
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
        show(call("PATCH", f"/tenants/{_part(tenant)}/keys/{_part(key)}", body), KEY, as_json=json)

    def listing(tenant: str, json: Json = False) -> None:
        """Show a tenant's keys, without their secrets."""
        show(every(f"/tenants/{_part(tenant)}/keys"), KEY, as_json=json)

    def revoke(tenant: str, key: str, json: Json = False) -> None:
        """Let a key work no more, for ever; felt within a second."""
        show(call("POST", f"/tenants/{_part(tenant)}/keys/{_part(key)}/revoke"), KEY, as_json=json)

    commands: dict[str, Callable[..., None]] = {
        "create": create,
        "update": update,
        "list": listing,
        "revoke": revoke,
        "rotate": money.rotate_key,
    }
    return _with(group, commands)


def _routes() -> typer.Typer:
    group = _group("Routes: public model names and what stands behind them.")
    columns = ("name", "tenant_id", "spec")

    def put(
        name: str,
        file: Annotated[Path, typer.Argument(help="JSON or YAML with `variants` and `cache`; - reads standard input.")],
        tenant: Owner = None,
        json: Json = False,
    ) -> None:
        """Make or replace a route."""
        show(call("PUT", _route(name, tenant), _document(file)), columns, as_json=json)

    def listing(tenant: Owner = None, json: Json = False) -> None:
        """Show the shared routes, or those of one tenant."""
        show(every("/routes" if tenant is None else f"/tenants/{_part(tenant)}/routes"), columns, as_json=json)

    def one(name: str, tenant: Owner = None, json: Json = False) -> None:
        """Show one route."""
        show(call("GET", _route(name, tenant)), columns, as_json=json)

    def delete(name: str, tenant: Owner = None) -> None:
        """Delete a route."""
        call("DELETE", _route(name, tenant))

    return _with(group, {"put": put, "list": listing, "show": one, "delete": delete})


def _adapters() -> typer.Typer:
    group = _group("LoRA adapters of a tenant.")

    def add(
        tenant: str,
        name: str,
        path: Annotated[Path, typer.Argument(help="Folder with adapter_config.json and adapter_model.safetensors.")],
        alias: Annotated[str | None, typer.Option(help="Let this alias mean the new version.")] = None,
        signature: Annotated[str | None, typer.Option(help="ed25519 over the content hash, in hexadecimal.")] = None,
        json: Json = False,
    ) -> None:
        """Import an adapter; the same bytes are the same version."""
        body = {"name": name, "path": str(path.absolute()), "alias": alias, "signature": signature}
        show(call("POST", f"/tenants/{_part(tenant)}/adapters", body), VERSION, as_json=json)

    def listing(tenant: str, json: Json = False) -> None:
        """Show every version and its aliases."""
        show(every(f"/tenants/{_part(tenant)}/adapters"), VERSION, as_json=json)

    def alias(
        tenant: str,
        name: str,
        alias: str,
        version: str,
        expected: Annotated[str | None, typer.Option(help="Only if the alias means this version now.")] = None,
        json: Json = False,
    ) -> None:
        """Let an alias mean this version from now on."""
        path = f"/tenants/{_part(tenant)}/adapters/{_part(name)}/aliases/{_part(alias)}"
        body = {"version": version} if expected is None else {"version": version, "expected": expected}
        show(call("PUT", path, body), ("name", "alias", "version"), as_json=json)

    def rollback(tenant: str, name: str, alias: str, json: Json = False) -> None:
        """Let an alias mean what it meant before its last move."""
        path = f"/tenants/{_part(tenant)}/adapters/{_part(name)}/aliases/{_part(alias)}/rollback"
        show(call("POST", path), ("name", "alias", "version"), as_json=json)

    def state(
        tenant: str,
        name: str,
        version: str,
        state: Annotated[str, typer.Argument(help="ready, draining, retired or failed.")],
        reason: Annotated[str | None, typer.Option(help="Why, for those who look later.")] = None,
        json: Json = False,
    ) -> None:
        """Bring a version into another state; move aliases off it first."""
        path = f"/tenants/{_part(tenant)}/adapters/{_part(name)}/versions/{_part(version)}/state"
        show(call("PUT", path, {"state": state, "reason": reason}), VERSION, as_json=json)

    def unalias(tenant: str, name: str, alias: str) -> None:
        """Take an alias away; routes that name it answer 404 from then on."""
        call("DELETE", f"/tenants/{_part(tenant)}/adapters/{_part(name)}/aliases/{_part(alias)}")

    commands: dict[str, Callable[..., None]] = {"add": add, "list": listing, "alias": alias, "unalias": unalias}
    return _with(group, {**commands, "rollback": rollback, "state": state})


def _usage_group() -> typer.Typer:
    group = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
    group.callback()(_plainly(_usage))
    group.command("reconcile")(_plainly(_reconcile))
    return group


def _reconcile(
    file: Annotated[Path, typer.Argument(help="The provider's bill as CSV: model, cost_usd, and day if it has one.")],
    upstream: Annotated[str, typer.Option(help="The provider in the gateway's configuration.")],
    since: Annotated[str | None, typer.Option(help="ISO 8601 instant, UTC unless it says.")] = None,
    until: Annotated[str | None, typer.Option(help="ISO 8601 instant, UTC unless it says.")] = None,
    tolerance: Annotated[str, typer.Option(help="Share of the bill by which the money may differ.")] = "0.001",
    json: Json = False,
) -> None:
    """Compare a provider's bill with the ledger; leaves with 1 when they do not agree."""
    from decimal import Decimal

    from app.cli.reconcile import BillError, compare, read_bill

    try:
        bill = read_bill(file)
    except BillError as exc:
        raise AdminError(str(exc)) from exc
    query = {"group_by": "model,day", "upstream": upstream, "since": since, "until": until}
    compared = compare(bill, call("GET", "/usage", query=query)["data"], tolerance=Decimal(tolerance))
    rows = [one.row() for one in compared]
    show({"data": rows}, tuple(rows[0]) if rows else ("model",), as_json=json)
    if not all(one.agrees for one in compared):
        raise typer.Exit(1)


def _usage(
    context: typer.Context,
    by: Annotated[list[str] | None, typer.Option(help="tenant, team, key, route, model, day, …; repeat.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Of this tenant only.")] = None,
    since: Annotated[str | None, typer.Option(help="ISO 8601 instant, UTC unless it says.")] = None,
    until: Annotated[str | None, typer.Option(help="ISO 8601 instant, UTC unless it says.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="CSV on standard output.")] = False,
    json: Json = False,
) -> None:
    """Show what was used and what it cost."""
    if context.invoked_subcommand is not None:
        return
    groups = by or ["tenant"]
    query = {"group_by": ",".join(groups), "tenant": tenant, "since": since, "until": until}
    if csv:
        sys.stdout.write(call("GET", "/usage.csv", query=query))
        return
    answer = call("GET", "/usage", query=query)
    show(answer, (*",".join(groups).split(","), *SUMS), as_json=json)
    if not answer["complete"]:
        typer.echo("tunegate: Redis does not answer, the newest requests are not in these figures", err=True)


def _with(group: typer.Typer, commands: dict[str, Callable[..., None]]) -> typer.Typer:
    for name, command in commands.items():
        group.command(name)(_plainly(command))
    return group


def _part(name: str) -> str:
    return quote(name, safe="")


def _route(name: str, tenant: str | None) -> str:
    path = f"/routes/{quote(name)}"
    return path if tenant is None else f"/tenants/{_part(tenant)}{path}"


def _instant(text: str | None) -> float | None:
    from datetime import UTC, datetime

    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise AdminError(f"--expires: expected an instant such as 2027-01-31T00:00, not '{text}'") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _document(file: Path) -> Any:
    import yaml

    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        return yaml.safe_load(text)
    except OSError as exc:
        raise AdminError(f"{file} cannot be read: {exc.strerror}") from exc
    except yaml.YAMLError as exc:
        raise AdminError(f"{file} is neither JSON nor YAML: {str(exc).splitlines()[0]}") from exc
