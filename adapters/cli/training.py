"""The verbs of training: recipes, train, compose, merge, trainer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from adapters.training.compose import Part
    from adapters.training.plan import TrainingPlan
    from adapters.training.progress import Progress
    from adapters.types import AdapterManifest

Base = Annotated[Path, typer.Option(help="Folder of the base model.", exists=True, file_okay=False)]
Name = Annotated[str, typer.Option(help="Name of the adapter.")]
Tenant = Annotated[str, typer.Option(help="Whose adapter it is.")]
MaxRank = Annotated[int, typer.Option(help="--max-lora-rank of the replicas.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    for verb in (recipes, train, compose, merge, trainer):
        app.command()(verb)


def recipes() -> None:
    """List the recipes that come with the package."""
    from adapters.training.recipe import shipped, shipped_recipe

    for name in shipped():
        recipe = shipped_recipe(name)
        where = f"{recipe.launch.world_size} process(es) by {recipe.launch.by}, {recipe.launch.strategy}"
        typer.echo(f"{name:20} {recipe.adapter.kind} rank {recipe.adapter.rank}, {recipe.quantization}, {where}")


def train(
    recipe: Annotated[str, typer.Argument(help="Shipped recipe's name, or path of a recipe file.")],
    dataset: Annotated[Path, typer.Argument(help="Folder of a dataset version.", exists=True, file_okay=False)],
    base: Base,
    name: Name,
    tenant: Tenant,
    work: Annotated[Path, typer.Option(help="Work folder; the same folder resumes.")] = Path(".adapters/training"),
) -> None:
    """Train an adapter on a dataset version; run it again after a crash and it goes on."""
    plan = _plan(recipe, dataset, base, name, tenant, work)
    manifest = asyncio.run(_trained(plan))
    figures = ", ".join(f"{key} {value:.4g}" for key, value in manifest.metrics.items())
    typer.echo(f"{manifest.version}\n{plan.adapter}\n{figures}")


def compose(  # noqa: PLR0913, PLR0917  # every option is an argument
    into: Annotated[Path, typer.Argument(help="New folder for the result.")],
    parts: Annotated[list[str], typer.Argument(help="Two or more of FOLDER:WEIGHT.")],
    base: Base,
    name: Name,
    tenant: Tenant,
    how: Annotated[str, typer.Option(help="linear, svd, cat, ties, ties_svd, dare_linear, dare_ties, …")] = "svd",
    density: Annotated[float | None, typer.Option(help="ties and dare: share of changes to keep.")] = None,
    rank: Annotated[int | None, typer.Option(help="svd: rank of the result.")] = None,
    max_rank: MaxRank = 16,
) -> None:
    """Make one adapter of several; what is written is loaded again and compared."""
    from typing import cast

    from adapters.training.compose import Combination, Composition
    from adapters.training.compose import compose as run

    wanted = Composition(
        tenant=tenant,
        name=name,
        combination=cast("Combination", how),
        parts=tuple(_part(part) for part in parts),
        density=density,
        svd_rank=rank,
        max_lora_rank=max_rank,
    )
    typer.echo(run(wanted, base, into).version)


def merge(
    into: Annotated[Path, typer.Argument(help="New folder for the merged model.")],
    adapter: Annotated[Path, typer.Argument(help="Folder of the adapter.", exists=True, file_okay=False)],
    base: Base,
) -> None:
    """Merge an adapter into its base; the result is compared with base and adapter before it gets its name."""
    from adapters.training.merge import merge as run

    made = run(base, adapter, into)
    typer.echo(f"{made.folder}: answers differ by {made.difference:.2g} of the largest score")


def trainer(settings: Annotated[Path, typer.Argument(help="The trainer's YAML file.")]) -> None:
    """Work for a gateway: claim jobs, train, register; SIGTERM saves a checkpoint and gives the job back."""
    from adapters.worker.main import run
    from adapters.worker.settings import load_trainer

    asyncio.run(run(load_trainer(settings)))


def _part(text: str) -> Part:
    from adapters.errors import ConfigurationError
    from adapters.training.compose import Part

    folder, _, weight = text.rpartition(":")
    try:
        return Part(Path(folder), float(weight))
    except ValueError as exc:
        raise ConfigurationError(f"{text}: expected FOLDER:WEIGHT, such as adapters/a:0.7") from exc


def _plan(recipe: str, dataset: Path, base: Path, name: str, tenant: str, work: Path) -> TrainingPlan:
    from adapters.data.dataset import read_manifest
    from adapters.training.plan import TrainingPlan
    from adapters.training.recipe import load_recipe, shipped_recipe
    from adapters.types import Split

    chosen = load_recipe(Path(recipe)) if recipe.endswith((".yaml", ".yml")) else shipped_recipe(recipe)
    manifest = read_manifest(dataset)
    sides = {split: (dataset / file.path).resolve() for split, file in manifest.splits.items() if file.rows}
    held_out = sides.get(Split.VALIDATION)
    return TrainingPlan(
        tenant=tenant,
        name=name,
        recipe=chosen.model_dump(mode="json"),
        base_name=chosen.base,
        base_path=str(base.resolve()),
        train_file=str(sides[Split.TRAIN]),
        validation_file=str(held_out) if held_out else None,
        dataset=manifest.version,
        dataset_sha256=manifest.sha256,
        work=str((work / f"{tenant}--{name}-{manifest.sha256[:12]}-{chosen.sha256[:12]}").resolve()),
    )


async def _trained(plan: TrainingPlan) -> AdapterManifest:
    """Run the training process, and show step, loss and time left."""
    from adapters.training.artifact import read_manifest
    from adapters.training.errors import TrainingFailed
    from adapters.training.preflight import check, this_machine
    from adapters.training.process import training

    check(plan, this_machine())
    with shown_steps() as show:
        async with training(plan) as process:
            async for news in process.steps(every_seconds=0.5):
                for one in news:
                    show(one)
            process.check()
    manifest = read_manifest(plan.adapter)
    if manifest is None:
        raise TrainingFailed("the training ended without a whole adapter")
    return manifest


@contextmanager
def shown_steps() -> Iterator[Callable[[Progress], None]]:
    """Show steps: a bar with loss and time left on a terminal, a line each elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda one: typer.echo(one.line(), err=True) if one.kind in ("step", "evaluation") else None
        return
    with Bars(BarColumn(), TextColumn("{task.description}"), console=console) as bars:
        task = bars.add_task("loading", total=None)

        def show(one: Progress) -> None:
            if one.kind in ("step", "evaluation"):
                bars.update(task, total=one.total_steps, completed=one.step, description=one.line())

        yield show
