"""`tunegate routes`: public model names and what stands behind them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from app.cli.admin.group import Json, group_of, part
from app.cli.client import AdminError, call, every
from app.cli.show import show

Owner = Annotated[str | None, typer.Option("--tenant", help="Of this tenant; without it shared by all.")]
ROUTE = ("name", "tenant_id", "spec")


def routes() -> typer.Typer:
    """Make, show and delete routes."""

    def put(
        name: str,
        file: Annotated[Path, typer.Argument(help="JSON or YAML with `variants` and `cache`; - reads standard input.")],
        tenant: Owner = None,
        json: Json = False,
    ) -> None:
        """Make or replace a route."""
        show(call("PUT", _route(name, tenant), _document(file)), ROUTE, as_json=json)

    def listing(tenant: Owner = None, json: Json = False) -> None:
        """Show the shared routes, or those of one tenant."""
        show(every("/routes" if tenant is None else f"/tenants/{part(tenant)}/routes"), ROUTE, as_json=json)

    def one(name: str, tenant: Owner = None, json: Json = False) -> None:
        """Show one route."""
        show(call("GET", _route(name, tenant)), ROUTE, as_json=json)

    def delete(name: str, tenant: Owner = None) -> None:
        """Delete a route."""
        call("DELETE", _route(name, tenant))

    return group_of(
        "Routes: public model names and what stands behind them.",
        {"put": put, "list": listing, "show": one, "delete": delete},
    )


def _route(name: str, tenant: str | None) -> str:
    path = f"/routes/{quote(name)}"
    return path if tenant is None else f"/tenants/{part(tenant)}{path}"


def _document(file: Path) -> Any:
    import yaml

    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        return yaml.safe_load(text)
    except OSError as exc:
        raise AdminError(f"{file} cannot be read: {exc.strerror}") from exc
    except yaml.YAMLError as exc:
        raise AdminError(f"{file} is neither JSON nor YAML: {str(exc).splitlines()[0]}") from exc
