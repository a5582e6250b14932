"""The limit options that tenants, teams and keys share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, get_type_hints

import typer

NO_LIMIT = "none"
BREAKERS = ("block", "degrade", "alert")
OPTIONS = {
    "rpm": ("requests_per_minute", "Requests per minute."),
    "burst": ("requests_burst", "Requests at once (otherwise a minute's worth)."),
    "tpm": ("tokens_per_minute", "Tokens per minute."),
    "token_burst": ("tokens_burst", "Tokens at once (otherwise a minute's worth)."),
    "tpd": ("tokens_per_day", "Tokens per UTC day."),
    "concurrent": ("concurrent_requests", "Requests at the same time."),
    "budget_day": ("budget_day_microusd", "USD per UTC day."),
    "budget_week": ("budget_week_microusd", "USD per week, from Monday."),
    "budget_month": ("budget_month_microusd", "USD per UTC month."),
    "budget_total": ("budget_total_microusd", "USD in all."),
    "spend_cap": ("spend_per_minute_microusd", "USD per minute before the cost breaker opens."),
    "spend_surge": ("spend_surge_percent", "Per cent of the last hour's usual minute before the cost breaker opens."),
    "breaker": ("breaker", "What an open cost breaker does: block, degrade or alert."),
}


def limited(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the limit options; it receives those that were used as `limits`, ready for the admin API."""

    @functools.wraps(command)
    def with_limits(**given: Any) -> None:
        texts = {option: given.pop(option) for option in OPTIONS}
        limits = {OPTIONS[option][0]: amount(option, text) for option, text in texts.items() if text is not None}
        command(**given, limits=limits)

    hints = {name: hint for name, hint in get_type_hints(command, include_extras=True).items() if name != "limits"}
    parameters = [p for p in inspect.signature(command).parameters.values() if p.name != "limits"]
    for option, (_, says) in OPTIONS.items():
        hint = Annotated[str | None, typer.Option(help=f"{says} `{NO_LIMIT}` takes the limit away.", metavar="N")]
        hints[option] = hint
        parameters.append(inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint))
    with_limits.__annotations__ = hints
    parameters = [p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    with_limits.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    del with_limits.__wrapped__  # the wrapped command has not these options
    return with_limits


def amount(option: str, text: str) -> int | str | None:
    """A limit as it was typed: `none`, a whole number, or for budgets USD with at most six digits after the point."""
    if text == NO_LIMIT:
        return None
    if option == "breaker":
        if text not in BREAKERS:
            raise typer.BadParameter(f"expected {', '.join(BREAKERS)} or {NO_LIMIT}", param_hint="--breaker")
        return text
    money = option.startswith("budget") or option == "spend_cap"
    try:
        value = Decimal(text) * (1_000_000 if money else 1)
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or value < 0 or value != value.to_integral_value():
        expected = "USD such as 2.50" if money else "a whole number"
        raise typer.BadParameter(f"expected {expected}, or {NO_LIMIT}", param_hint=f"--{option.replace('_', '-')}")
    return int(value)
