"""`tunegate usage`: what was used and what it cost, and whether providers' bills agree."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from app.cli.admin.group import Json, plainly
from app.cli.client import AdminError, call
from app.cli.show import show

SUMS = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "cost_microusd", "saved_microusd")


def usage() -> typer.Typer:
    """Usage, a verb itself, with the reconciliation of bills below it."""
    group = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
    group.callback()(plainly(_usage))
    group.command("reconcile")(plainly(_reconcile))
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
    from app.cli.reconcile import BillError, compare, read_bill, share

    try:
        most = share(tolerance)
        bill = read_bill(file)
    except BillError as exc:
        raise AdminError(str(exc)) from exc
    query = {"group_by": "model,day", "upstream": upstream, "since": since, "until": until}
    compared = compare(bill, call("GET", "/usage", query=query)["data"], tolerance=most)
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
