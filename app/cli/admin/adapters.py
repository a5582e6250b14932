"""`tunegate adapters`: versions of LoRA adapters, and what their aliases mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli.admin.group import Command, Json, group_of, part
from app.cli.client import call, every
from app.cli.show import show

VERSION = ("id", "state", "aliases", "rank", "base_model", "created_at")


def adapters() -> typer.Typer:
    """Import adapters, move aliases, change states."""

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
        show(call("POST", f"/tenants/{part(tenant)}/adapters", body), VERSION, as_json=json)

    def listing(tenant: str, json: Json = False) -> None:
        """Show every version and its aliases."""
        show(every(f"/tenants/{part(tenant)}/adapters"), VERSION, as_json=json)

    def alias(
        tenant: str,
        name: str,
        alias: str,
        version: str,
        expected: Annotated[str | None, typer.Option(help="Only if the alias means this version now.")] = None,
        json: Json = False,
    ) -> None:
        """Let an alias mean this version from now on."""
        path = f"/tenants/{part(tenant)}/adapters/{part(name)}/aliases/{part(alias)}"
        body = {"version": version} if expected is None else {"version": version, "expected": expected}
        show(call("PUT", path, body), ("name", "alias", "version"), as_json=json)

    def rollback(tenant: str, name: str, alias: str, json: Json = False) -> None:
        """Let an alias mean what it meant before its last move."""
        path = f"/tenants/{part(tenant)}/adapters/{part(name)}/aliases/{part(alias)}/rollback"
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
        path = f"/tenants/{part(tenant)}/adapters/{part(name)}/versions/{part(version)}/state"
        show(call("PUT", path, {"state": state, "reason": reason}), VERSION, as_json=json)

    def unalias(tenant: str, name: str, alias: str) -> None:
        """Take an alias away; routes that name it answer 404 from then on."""
        call("DELETE", f"/tenants/{part(tenant)}/adapters/{part(name)}/aliases/{part(alias)}")

    commands: dict[str, Command] = {"add": add, "list": listing, "alias": alias, "unalias": unalias}
    return group_of("LoRA adapters of a tenant.", {**commands, "rollback": rollback, "state": state})
