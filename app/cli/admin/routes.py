"""`tunegate routes`: public model names and what stands behind them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
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
        text = (sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()).decode("utf-8")
        found = yaml.safe_load(text)
    except OSError as exc:
        raise AdminError(f"{file} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        raise AdminError(f"{file}:{line}: expected UTF-8, found the byte 0x{exc.object[exc.start]:02x}") from exc
    except (yaml.YAMLError, ValueError, RecursionError) as exc:  # ValueError: a date that is none
        said = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        raise AdminError(f"{file} is neither JSON nor YAML: {said}") from exc
    for place, value in _foreign(found, ()):
        where = ".".join(place) or "the whole file"
        raise AdminError(f"{file}: {where}: expected what JSON has, not {type(value).__name__}; put it in quotes")
    return found


def _foreign(value: Any, place: tuple[str, ...], above: tuple[int, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What YAML has and JSON has not, with its place: dates, bytes, sets, keys that are no text, endless numbers."""
    if isinstance(value, dict | list) and id(value) not in above:
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in inside:
            here = (*place, str(key))
            if isinstance(value, dict) and not isinstance(key, str):
                yield here, key
            yield from _foreign(inner, here, (*above, id(value)))
    elif not isinstance(value, str | int | float | None) or (isinstance(value, float) and not math.isfinite(value)):
        yield place, value
