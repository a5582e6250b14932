"""The verbs for a provider's fine-tuning: estimate, run, expiries, move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from adapters.training.provider_jobs.estimate import Estimate
    from adapters.training.provider_jobs.journal import JobRequest, Record
    from adapters.training.provider_jobs.move import Move
    from adapters.training.provider_jobs.provider import Provider

Url = Annotated[str, typer.Option(help="Base URL of an OpenAI-compatible API, with its /v1.")]
KeyEnv = Annotated[str, typer.Option(help="Environment variable with the API key.")]
Jobs = Annotated[Path, typer.Option(help="Folder of the journal; the same folder resumes.")]
Prices = Annotated[Path, typer.Option(help="Dated price table (YAML).", exists=True)]
Model = Annotated[str, typer.Option(help="Model to fine-tune.")]
Epochs = Annotated[int, typer.Option(min=0, max=50, help="0: the provider chooses.")]
Training = Annotated[Path, typer.Argument(help="JSONL in OpenAI's chat form.", exists=True)]
OPENAI = "https://api.openai.com/v1"
JOBS = Path(".adapters/provider-jobs")


def register(app: typer.Typer) -> None:
    """Add the group to the command."""
    group = typer.Typer(no_args_is_help=True, help="Fine-tuning at an OpenAI-compatible provider.")
    for verb in (estimate, run, expiries, move):
        group.command()(verb)
    app.add_typer(group, name="provider")


def estimate(training: Training, prices: Prices, model: Model, epochs: Epochs = 0) -> None:
    """Say what a training will cost, from a dated price table."""
    made = _estimate(training, prices, model, epochs)
    typer.echo(_money(made))


def run(  # noqa: PLR0913, PLR0917  # every option is an argument
    training: Training,
    prices: Prices,
    model: Model,
    validation: Annotated[Path | None, typer.Option(help="Held-out JSONL.", exists=True)] = None,
    suffix: Annotated[str, typer.Option(help="Part of the new model's name.")] = "",
    epochs: Epochs = 0,
    seed: Annotated[int, typer.Option(help="Seed.")] = 42,
    attempt: Annotated[int, typer.Option(help="Raise it to train the same thing once more.")] = 0,
    limit_usd: Annotated[float, typer.Option(help="Refuse when the high estimate is above this.")] = 100.0,
    base_url: Url = OPENAI,
    key_env: KeyEnv = "OPENAI_API_KEY",
    jobs: Jobs = JOBS,
) -> None:
    """Estimate, upload, start, follow; run it again after a crash and it goes on."""
    from adapters.training.provenance import file_sha256
    from adapters.training.provider_jobs.errors import ProviderRefused
    from adapters.training.provider_jobs.journal import JobRequest

    cost = _estimate(training, prices, model, epochs)
    typer.echo(_money(cost), err=True)
    if cost.high_microusd > limit_usd * 1_000_000:
        raise ProviderRefused(f"the estimate is above --limit-usd {limit_usd:g}; raise the limit or train on less")
    request = JobRequest(
        base_url=base_url,
        model=model,
        training_sha256=file_sha256(training),
        validation_sha256=file_sha256(validation) if validation else "",
        suffix=suffix,
        seed=seed,
        n_epochs=epochs,
        attempt=attempt,
    )
    typer.echo(asyncio.run(_run(request, jobs, training, validation, key_env)))


def expiries(
    models: Annotated[list[str], typer.Argument(help="Models in use.")],
    dates: Annotated[Path | None, typer.Option(help="YAML of model: date, beside what the provider says.")] = None,
    horizon_days: Annotated[int, typer.Option(help="How far ahead, in days.")] = 180,
    base_url: Url = OPENAI,
    key_env: KeyEnv = "OPENAI_API_KEY",
) -> None:
    """Say which models in use will be shut down; exit code 3 when one ends within 30 days."""
    import yaml

    from adapters.training.provider_jobs.expiry import watch

    configured: dict[str, date] = yaml.safe_load(dates.read_text(encoding="utf-8")) if dates else {}

    async def asked() -> list[str]:
        async with _provider(base_url, key_env) as provider:
            found = await watch(provider, models, configured, today=datetime.now(UTC).date(), horizon_days=horizon_days)
        for one in found:
            typer.echo(f"{one.level:8} {one.model} ends {one.ends}, in {one.days_left} days ({one.source})")
        return [one.level for one in found]

    if "alarm" in asyncio.run(asked()):
        raise typer.Exit(3)


def move(  # noqa: PLR0913, PLR0917  # every option is an argument
    model: Annotated[str, typer.Argument(help="The provider's fine-tuned model, as the journal has it.")],
    gateway: Annotated[str, typer.Option(help="Address of the gateway, without a path.")],
    tenant: Annotated[str, typer.Option(help="Whose model it is.")],
    base: Annotated[str, typer.Option(help="Base model at the gateway.")],
    adapter: Annotated[str, typer.Option(help="Name of the adapter.")],
    route: Annotated[str, typer.Option(help="Route that names the old model.")],
    shared: Annotated[bool, typer.Option(help="The route is shared by all tenants.")] = False,
    key_env: KeyEnv = "TUNEGATE_API_KEY",
    admin_env: Annotated[str, typer.Option(help="Environment variable with the admin secret.")] = "TUNEGATE_ADMIN_KEY",
    jobs: Jobs = JOBS,
) -> None:
    """Train an adapter on the same dataset version and put it behind the same route."""
    from adapters.training.provider_jobs.errors import ProviderRefused
    from adapters.training.provider_jobs.journal import records
    from adapters.training.provider_jobs.move import Move

    record = next((one for one in records(jobs) if one.model == model), None)
    if record is None:
        raise ProviderRefused(f"{model}: no job in {jobs} made it; give the journal's folder with --jobs")
    wanted = Move(gateway.rstrip("/"), tenant, base, adapter, route, tenant_route=not shared)
    typer.echo(asyncio.run(_move(record, wanted, jobs, key_env, admin_env)))


async def _run(request: JobRequest, jobs: Path, training: Path, validation: Path | None, key_env: str) -> str:
    from adapters.training.provider_jobs.job import follow, result, start
    from adapters.training.provider_jobs.journal import Journal

    journal = Journal(jobs, request)
    async with _provider(request.base_url, key_env) as provider:
        with journal.held():
            await start(provider, journal, training, validation)
            async for event in follow(provider, journal, asyncio.sleep):
                typer.echo(f"{event.level}: {event.message}", err=True)
    return result(journal.record)


async def _move(record: Record, wanted: Move, jobs: Path, key_env: str, admin_env: str) -> str:
    import httpx2

    from adapters.training.provider_jobs.journal import Journal
    from adapters.training.provider_jobs.move import request_for, switch, train

    journal = Journal(jobs, request_for(record, wanted))
    async with _provider(f"{wanted.gateway}/v1", key_env) as provider:
        with journal.held():
            made = await train(provider, journal, record, asyncio.sleep)
    headers = {"authorization": f"Bearer {_key(admin_env)}"}
    async with httpx2.AsyncClient(base_url=wanted.gateway, headers=headers, timeout=30) as admin:
        moved = await switch(admin, wanted, made, record.model)
    return f"{moved.version} serves route {wanted.route} ({moved.replaced} targets turned)"


@asynccontextmanager
async def _provider(base_url: str, key_env: str) -> AsyncIterator[Provider]:
    from openai import AsyncOpenAI

    from adapters.training.provider_jobs.provider import Provider

    async with AsyncOpenAI(api_key=_key(key_env), base_url=base_url, timeout=120) as client:
        yield Provider(client)


def _key(name: str) -> str:
    from adapters.errors import ConfigurationError
    from adapters.settings import secret

    found = secret(name)
    if found is None:
        raise ConfigurationError(f"{name} is not set: export the key, or name another variable")
    return found


def _estimate(training: Path, prices: Path, model: str, epochs: int) -> Estimate:
    from adapters.training.provider_jobs.estimate import auto_epochs, count_tokens, load_prices
    from adapters.training.provider_jobs.estimate import estimate as priced
    from adapters.training.tokens import read_chat

    lines = [line for _, line in read_chat(training)]
    today = datetime.now(UTC).date()
    return priced(
        load_prices(prices), model, count_tokens(lines), epochs or auto_epochs(len(lines)), today=today, counted=False
    )


def _money(made: Estimate) -> str:
    stale = "; these prices are old, check them" if made.price_stale else ""
    low, likely, high = (amount / 1_000_000 for amount in (made.low_microusd, made.likely_microusd, made.high_microusd))
    return (
        f"about {likely:.2f} USD ({low:.2f} to {high:.2f}): {made.tokens_per_epoch} tokens x {made.epochs} epochs, "
        f"prices of {made.price_dated}{stale}"
    )
