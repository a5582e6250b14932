"""`tunegate adapters`: versions of LoRA adapters, and what their aliases mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli.admin.group import Command, Json, group_of, part
from app.cli.client import call, every
from app.cli.show import show

VERSION = ("id", "state", "aliases", "rank", "base_model", "created_at")
ALIAS = ("name", "alias", "version")
BUCKET = "s3://"


def adapters() -> typer.Typer:
    """Import adapters, move aliases, change states."""
    commands: dict[str, Command] = {
        "add": _add,
        "list": _list,
        "alias": _alias,
        "unalias": _unalias,
        "rollback": _rollback,
        "state": _state,
    }
    return group_of("LoRA adapters of a tenant.", commands)


def _add(
    tenant: str,
    name: str,
    path: Annotated[
        str,
        typer.Argument(
            help="Folder with adapter_config.json and adapter_model.safetensors: of this machine, which must be the"
            " gateway's or have the folder at the same place, or s3://bucket/folder."
        ),
    ],
    alias: Annotated[str | None, typer.Option(help="Let this alias mean the new version.")] = None,
    signature: Annotated[str | None, typer.Option(help="ed25519 over the content hash, in hexadecimal.")] = None,
    json: Json = False,
) -> None:
    """Import an adapter; the same bytes are the same version."""
    place = path if path.startswith(BUCKET) else str(Path(path).absolute())
    body = {"name": name, "path": place, "alias": alias, "signature": signature}
    show(call("POST", f"/tenants/{part(tenant)}/adapters", body), VERSION, as_json=json)


def _list(tenant: str, json: Json = False) -> None:
    """Show every version and its aliases."""
    show(every(f"/tenants/{part(tenant)}/adapters"), VERSION, as_json=json)


def _alias(
    tenant: str,
    name: str,
    alias: str,
    version: str,
    expected: Annotated[str | None, typer.Option(help="Only if the alias means this version now.")] = None,
    json: Json = False,
) -> None:
    """Let an alias mean this version from now on."""
    body = {"version": version} if expected is None else {"version": version, "expected": expected}
    show(call("PUT", _path(tenant, name, alias), body), ALIAS, as_json=json)


def _unalias(tenant: str, name: str, alias: str) -> None:
    """Take an alias away; routes that name it answer 404 from then on."""
    call("DELETE", _path(tenant, name, alias))


def _rollback(tenant: str, name: str, alias: str, json: Json = False) -> None:
    """Let an alias mean what it meant before its last move."""
    show(call("POST", f"{_path(tenant, name, alias)}/rollback"), ALIAS, as_json=json)


def _state(
    tenant: str,
    name: str,
    version: str,
    state: Annotated[str, typer.Argument(help="ready, draining, retired or failed.")],
    reason: Annotated[str | None, typer.Option(help="Why, for those who look later.")] = None,
    json: Json = False,
) -> None:
    """Bring a version into another state; move aliases off it first."""
    path = f"/tenants/{part(tenant)}/adapters/{part(name)}/versions/{part(version)}/state"
    show(call("PUT", path, {"state": state, "reason": reason}), VERSION, as_json=json)


def _path(tenant: str, name: str, alias: str) -> str:
    return f"/tenants/{part(tenant)}/adapters/{part(name)}/aliases/{part(alias)}"
