"""The `adapters` command: every stage of the data's way by hand. `main` is the console script.

Each group of verbs is a module with `register(app)`. Heavy imports wait until a verb runs, so `--help` is instant.
"""

from __future__ import annotations

import sys

import typer

from adapters.cli import data, provider, training
from adapters.errors import SidecarError

app = typer.Typer(
    name="adapters",
    no_args_is_help=True,
    add_completion=False,
    help="From conversations to a served adapter. Start with `adapters prepare recipe.yaml`.",
    rich_markup_mode=None,
)
data.register(app)
training.register(app)
provider.register(app)


def main() -> None:
    """Entry point of the console script: what a user can mend is one message and exit code 2, never a traceback."""
    try:
        app()
    except SidecarError as exc:
        typer.echo(f"adapters: {exc}", err=True)
        sys.exit(2)
