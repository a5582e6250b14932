"""The `tunegate` command: run the gateway, the engine or the demo, look after an installation, administer it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli import admin
from app.cli.starting import plainly_started, read_settings

app = typer.Typer(
    name="tunegate",
    no_args_is_help=True,
    add_completion=False,
    help="An inference gateway for fine-tuned models. Start with `tunegate demo`.",
    rich_markup_mode=None,
    pretty_exceptions_show_locals=False,  # among them are secrets
)
admin.register(app)

Config = Annotated[Path | None, typer.Option("--config", "-c", help="Settings file; default ./tunegate.yaml if there.")]
Json = Annotated[bool, typer.Option("--json", help="Plain JSON on standard output.")]


@app.command()
def serve(config: Config = None) -> None:
    """Run the gateway; with no settings on embedded Redis and SQLite under ./.tunegate."""
    from app.main import serve as run

    settings = read_settings(config)
    with plainly_started(settings):
        code = run(settings)
    raise typer.Exit(code)


@app.command()
def migrate(config: Config = None) -> None:
    """Bring the SQL schema up to date and leave; `serve` does the same at its start."""
    import asyncio

    from app.opening import migrate_database

    settings = read_settings(config)
    with plainly_started(settings):
        asyncio.run(migrate_database(settings))


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def engine(context: typer.Context) -> None:
    """Run the reference engine: vLLM's HTTP contract on a tiny real Llama, on a CPU (flags: `engine --help`)."""
    from app.engine.main import main as run

    run(context.args, program="tunegate engine")


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def trainer(context: typer.Context) -> None:
    """Run a trainer for the gateway's fine-tuning jobs: `adapters trainer FILE`, in this process's place."""
    import os
    import sys

    command = [sys.executable, "-m", "adapters.cli", "trainer", *context.args]
    os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted, and no second process


@app.command()
def demo(
    data: Annotated[Path, typer.Option(help="Folder of the demo's stores and keys.")] = Path(".tunegate"),
    port: Annotated[int, typer.Option(help="TCP port of the gateway.")] = 8000,
    metrics_port: Annotated[int, typer.Option(help="TCP port of /metrics.")] = 9100,
    engine_port: Annotated[int, typer.Option(help="TCP port of the reference engine.")] = 8001,
) -> None:
    """Start the engine and the gateway with three tenants, and print what to try. Ctrl-C ends both."""
    from app.cli.demo import Demo

    raise typer.Exit(Demo(data.resolve(), port, metrics_port, engine_port).run())


@app.command()
def doctor(
    config: Config = None,
    probe: Annotated[str | None, typer.Option(help="Only ask this address; exit code 0 when it answers 200.")] = None,
    json: Json = False,
) -> None:
    """Check what this machine lacks, part by part, with advice."""
    from app.cli.doctor import examine, probe_address, show

    if probe is not None:
        raise typer.Exit(0 if probe_address(probe) else 1)
    findings = examine(config)
    show(findings, as_json=json)
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)


def main() -> None:
    """Entry point of the console script."""
    app()
