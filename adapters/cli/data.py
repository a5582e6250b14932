"""The verbs of the data rooms: check, prepare, report, verify, synthesize, select, labels, sweep."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from adapters.data.stage import Progress
    from adapters.data.workspace import Workspace
    from adapters.settings import DataSettings
    from adapters.types import DatasetManifest


class EngineName(StrEnum):
    """Who runs the steps."""

    LOCAL = "local"
    RAY = "ray"


class StageName(StrEnum):
    """Where preparing can stop."""

    FETCH = "fetch"
    CLEAN = "clean"
    REDACT = "redact"
    VALIDATE = "validate"
    UNIQUE = "unique"


Recipe = Annotated[Path, typer.Argument(help="Data recipe, a YAML file.")]
Home = Annotated[Path, typer.Option(help="Work folder; finished versions lie in its datasets/.")]
Which = Annotated[
    EngineName,
    typer.Option(help="local: processes here; ray: Ray Data, on the cluster of RAY_ADDRESS or one started here."),
]
Workers = Annotated[int, typer.Option(min=0, help="Processes (or Ray CPUs); 0 is one per core.")]
AsOf = Annotated[datetime | None, typer.Option(help="Ages are counted from this instant (UTC); default: today, 0:00.")]
Until = Annotated[StageName | None, typer.Option(help="Stop after this stage and say where its rows lie.")]
Json = Annotated[bool, typer.Option("--json", help="Plain JSON on standard output.")]
Dataset = Annotated[Path, typer.Argument(help="Folder of a dataset version.")]
DEFAULT_HOME = Path(".adapters")


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    for verb in (check, prepare, report, verify, synthesize, select, labels, sweep):
        app.command()(verb)


def check(
    file: Annotated[Path, typer.Argument(help="JSONL in OpenAI's chat form.")],
    tokenizer: Annotated[Path | None, typer.Option(help="tokenizer.json of the base model.")] = None,
    minimum: Annotated[int, typer.Option(help="Fewest rows.")] = 10,
) -> None:
    """Check a training file as the API will: every broken row by line, field and rule."""
    from adapters.data.validate import check_file
    from adapters.settings import Validation

    verdict = check_file(file, Validation(tokenizer=tokenizer), minimum)
    verdict.raise_if_broken()
    typer.echo(f"{file.name}: {verdict.rows} rows, {verdict.tokens} tokens, nothing broken")


def prepare(
    recipe: Recipe,
    home: Home = DEFAULT_HOME,
    engine: Which = EngineName.LOCAL,
    workers: Workers = 0,
    as_of: AsOf = None,
    until: Until = None,
    json: Json = False,
) -> None:
    """Make a dataset version: fetch, clean, redact, validate, de-duplicate, split, write. Goes on after a kill."""
    from adapters.data.engine import LocalEngine, RayEngine
    from adapters.pipeline import Preparation, stages
    from adapters.pipeline import prepare as run
    from adapters.settings import load, secret

    settings, count = load(recipe), workers or os.cpu_count() or 1
    chosen = LocalEngine(count) if engine is EngineName.LOCAL else RayEngine(secret("RAY_ADDRESS"), count)
    with _work(settings, home) as (workspace, progress), chosen:
        how = Preparation(settings, workspace, chosen, progress, _instant(as_of), datetime.now(UTC).timestamp())
        if until is None:
            _show_manifest(run(how), home, as_json=json)
            return
        stage = next(stage for stage in stages(how) if stage.name == until)
    manifest = stage.require()
    typer.echo(f"{stage.folder}")
    _table("rows", {"kept": manifest.rows, **manifest.drops, **manifest.counts})


def sweep(recipe: Recipe, home: Home = DEFAULT_HOME) -> None:
    """Delete what stages left, raw texts too; finished dataset versions and the key stay."""
    import shutil

    from adapters.settings import load

    with _work(load(recipe), home) as (workspace, _):
        shutil.rmtree(workspace.stages, ignore_errors=True)
    typer.echo(f"{home / 'stages'}: deleted")


def report(dataset: Dataset, json: Json = False) -> None:
    """Show a dataset's quality report: counts, topics, outliers, warnings."""
    import msgspec

    from adapters.data.dataset import read_manifest
    from adapters.data.report import QualityReport

    read_manifest(dataset)
    raw = (dataset / "report.json").read_bytes()
    if json:
        typer.echo(raw)
        return
    shown = msgspec.json.decode(raw, type=QualityReport)
    typer.echo(f"{shown.version}: {shown.verdict}; {shown.customers} customers, topics balanced {shown.topic_balance}")
    _table("rows", {str(side): count for side, count in shown.rows.items()})
    _table("train examples", {topic or "(none)": sides.train for topic, sides in shown.topics.items()})
    for warning in shown.warnings:
        typer.echo(f"warning: {warning}")


def verify(dataset: Dataset) -> None:
    """Check every file of a dataset version against its manifest."""
    from adapters.data.dataset import verify as run

    typer.echo(f"{run(dataset).version}: every file is what the manifest says")


def synthesize(
    dataset: Dataset,
    out: Annotated[Path, typer.Option(help="JSONL to write; a source of kind `examples`.")],
    base_url: Annotated[str, typer.Option(help="Teacher's address with its closing /v1.")],
    model: Annotated[str, typer.Option(help="Teacher's route or model.")],
    count: Annotated[int, typer.Option(min=1, help="How many examples.")] = 100,
    key_env: Annotated[str, typer.Option(help="Environment variable with the API key.")] = "TUNEGATE_API_KEY",
) -> None:
    """Let a teacher write examples like the train ones, thin topics first."""
    from adapters.data import synthesize as module
    from adapters.settings import TeacherSettings

    teacher = module.HttpTeacher(TeacherSettings(base_url=base_url, model=model, key_env=key_env))
    outcome = module.synthesize(dataset, count, teacher, model)
    module.write_synthetic(out, outcome.kept)
    _table("rows", {"written": len(outcome.kept), **outcome.counts})


def select(
    traffic: Annotated[Path, typer.Argument(help="Traffic export, JSONL.")],
    out: Annotated[Path, typer.Option(help="Queue to write, JSONL.")],
    recipe: Annotated[Path, typer.Option(help="Data recipe, for its cleaning and redaction.")],
    home: Home = DEFAULT_HOME,
    count: Annotated[int, typer.Option(min=1, help="How many to label.")] = 100,
    dataset: Annotated[Path | None, typer.Option(help="Dataset version whose questions are known already.")] = None,
) -> None:
    """Pick what to label next: uncertain, disputed, unlike the rest."""
    from adapters.data import select as module
    from adapters.data.clean import Clean
    from adapters.data.dataset import examples_of
    from adapters.data.redact import Redact
    from adapters.data.rows import user_text
    from adapters.data.stage import after
    from adapters.settings import load
    from adapters.types import Split

    settings = load(recipe)
    known = [user_text(one.messages) for one in examples_of(dataset, Split.TRAIN)] if dataset else []
    with _work(settings, home) as (workspace, _):
        steps = after(Clean(settings.cleaning), Redact(settings.redaction, workspace.key))
        items, refused = module.select(traffic, count, steps, known)
    module.write_queue(out, items)
    _table("lines", {"to label": len(items), **refused})


def labels(
    queue: Annotated[Path, typer.Argument(help="Labelling queue, filled in.")],
    out: Annotated[Path, typer.Option(help="JSONL to write; a source of kind `examples`.")],
) -> None:
    """Bring labels back as examples."""
    from adapters.data.rows import encode_lines
    from adapters.data.select import read_labels
    from adapters.data.storage import write_lines

    outcome = read_labels(queue)
    write_lines(out, encode_lines(outcome.kept))
    _table("lines", {"labelled": len(outcome.kept), **outcome.counts})
    for drop in outcome.drops[:10]:
        typer.echo(str(drop), err=True)
    raise typer.Exit(1 if outcome.drops else 0)


@contextmanager
def _work(settings: DataSettings, home: Path) -> Iterator[tuple[Workspace, Progress]]:
    from adapters.cli.progress import shown
    from adapters.data.workspace import open_workspace

    with open_workspace(home, settings.redaction) as workspace, shown() as progress:
        yield workspace, progress


def _instant(as_of: datetime | None) -> float:
    """Give the start of today unless said otherwise, so that a run that goes on the same day finds its stages."""
    if as_of is not None:
        return as_of.replace(tzinfo=UTC).timestamp()
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()


def _show_manifest(manifest: DatasetManifest, home: Path, *, as_json: bool) -> None:
    import msgspec

    if as_json:
        typer.echo(msgspec.json.encode(manifest))
        return
    typer.echo(
        f"{manifest.version}: {manifest.rows} of {manifest.read} rows, in {home / 'datasets' / manifest.version}"
    )
    _table("rows", {str(side): split.rows for side, split in manifest.splits.items()})
    _table("left out", manifest.drops)
    _table("replaced", manifest.redactions)


def _table(title: str, counts: dict[str, int]) -> None:
    """Print counts, one a line, for people and for `grep`; nothing when there are none."""
    if not counts:
        return
    width = max(len(name) for name in counts)
    typer.echo(f"{title}:")
    for name, count in counts.items():
        typer.echo(f"  {name:<{width}}  {count}")
