"""What the groups of admin verbs share: how they are made, how they fail, the options that many of them have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any
from urllib.parse import quote

import typer

from app.cli.client import AdminError

Json = Annotated[bool, typer.Option("--json", help="The API's JSON on standard output.")]
Name = Annotated[str | None, typer.Option(help="A name for people.")]
Command = Callable[..., None]


def group_of(says: str, commands: Mapping[str, Command]) -> typer.Typer:
    """A group of verbs."""
    group = typer.Typer(help=says, no_args_is_help=True, rich_markup_mode=None)
    for name, command in commands.items():
        group.command(name)(plainly(command))
    return group


def plainly(command: Command) -> Command:
    """Say an AdminError, or an argument that is no text, in one line on standard error and leave with 1."""

    @wraps(command)
    def plain(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except AdminError as exc:
            says = str(exc)
        except UnicodeEncodeError:
            says = "an argument holds bytes that are no text here; use UTF-8"
        else:
            return
        typer.echo(f"tunegate: {says}", err=True)
        raise typer.Exit(1)

    return plain


def part(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")
