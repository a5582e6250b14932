"""The data's way, in the order in which it is read: fetch, clean, redact, validate, de-duplicate, split, version.

Stages hand each other folders whose manifest is written last (`adapters.data.stage`): each can be run again alone, goes
on after a kill, and is not run twice on the same input. Validation stands before de-duplication, so that what is kept
of a kind is never a row that then turns out invalid. Which engine runs the steps changes nothing in what they give.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import chain

import msgspec
import numpy as np

from adapters.data.clean import Clean
from adapters.data.dataset import Provenance, write_dataset
from adapters.data.deduplicate import Search, Unique, decide
from adapters.data.embeddings import HttpEmbedder
from adapters.data.engine import Engine, Task
from adapters.data.fetch import Fetching, fetch
from adapters.data.fingerprint import Fingerprint, signing
from adapters.data.near import arrays_of
from adapters.data.redact import Redact
from adapters.data.split import DROPPED, Facts, assign, tabulate
from adapters.data.stage import MapPart, Progress, Stage, Step, digest, open_stage, waiting
from adapters.data.validate import Validate
from adapters.data.workspace import Workspace
from adapters.errors import TooFewExamplesError
from adapters.settings import DataSettings
from adapters.types import DatasetManifest, Example

_VERSIONS = {"clean": "1", "redact": "1", "validate": "1", "fingerprint": "1", "unique": "1"}
_LIBRARIES = ("tunegate", "presidio-analyzer", "phonenumbers", "datasketch", "numpy", "tokenizers")


@dataclass(frozen=True, slots=True)
class Preparation:
    """Everything that preparing needs: the recipe, where, who runs it, who is told, and the instant of the run."""

    settings: DataSettings
    workspace: Workspace
    engine: Engine
    progress: Progress
    as_of: float
    now: float


def prepare(how: Preparation) -> DatasetManifest:
    """Make a dataset version from a recipe; goes on where an earlier run was stopped."""
    settings = how.settings
    fetched = fetch(how.workspace.stages, settings, Fetching(how.workspace.key, how.as_of, how.progress))
    cleaned = _map(how, "clean", fetched, Clean(settings.cleaning))
    redacted = _map(how, "redact", cleaned, Redact(settings.redaction, how.workspace.key))
    valid = _map(how, "validate", redacted, Validate(settings.validation))
    _refuse_nothing(settings, [fetched, cleaned, redacted, valid])
    unique = _deduplicate(how, valid)
    return _write(how, [fetched, cleaned, redacted, valid, unique])


def _map(how: Preparation, name: str, source: Stage, step: Step) -> Stage:
    """Run a step over every part of a stage."""
    return _run(how, name, source, repr(_settings_of(step)), lambda target: MapPart(step, source, target))


def _deduplicate(how: Preparation, valid: Stage) -> Stage:
    rules = how.settings.deduplication
    bands = signing(rules.permutations, rules.group)
    embed = None if rules.embeddings is None else HttpEmbedder(rules.embeddings)
    inputs = f"{bands} {rules.embeddings and rules.embeddings.model}"
    prints = _run(how, "fingerprint", valid, inputs, lambda target: Fingerprint(valid, target, bands, embed))
    search = Search(how.workspace.stages, how.engine, how.progress, rules)
    decisions = decide(search, prints, bands.bands)
    arrays = arrays_of(prints)
    return _run(how, "unique", valid, decisions.fingerprint, lambda target: Unique(valid, decisions, arrays, target))


def _run(how: Preparation, name: str, source: Stage, inputs: str, task: Callable[[Stage], Task]) -> Stage:
    """Open the stage that these inputs name and let the engine do the parts that are not sealed."""
    manifest = source.require()
    target = open_stage(how.workspace.stages, name, _VERSIONS[name], inputs, source.fingerprint, manifest.sha256)
    how.progress.start(name, len(manifest.parts))
    if target.manifest() is None:
        for rows in how.engine.run(task(target), waiting(manifest.parts, target)):
            how.progress.advance(rows)
        target.finish()
    return target


def _write(how: Preparation, stages: list[Stage]) -> DatasetManifest:
    """Divide what is left and write the version."""
    unique, settings = stages[-1], how.settings
    how.progress.start("split and write", None)
    sides = assign(tabulate(_facts(unique), settings.splitting.seed), settings.splitting)
    drops, counts = Counter[str](), Counter[str]()
    for stage in stages:
        manifest = stage.require()
        drops.update(manifest.drops)
        counts.update(manifest.counts)
    homeless = int(np.count_nonzero(sides == DROPPED))
    if homeless:
        drops["split:synthetic_not_in_train"] = homeless
    rows: Iterator[tuple[Example, int]] = zip(unique.examples(), sides.tolist(), strict=True)
    return write_dataset(how.workspace.home, rows, _provenance(how, drops, counts), settings.quality)


def _provenance(how: Preparation, drops: Counter[str], counts: Counter[str]) -> Provenance:
    settings = how.settings
    kinds = {name.removeprefix("redacted:"): count for name, count in counts.items() if name.startswith("redacted:")}
    tokenizer = settings.validation.tokenizer
    return Provenance(
        name=settings.name,
        tenant=settings.tenant,
        sources=tuple(_source_words(source.name, source.kind, source.table) for source in settings.sources),
        read=counts["read"],
        drops=dict(sorted(drops.items())),
        redactions=dict(sorted(kinds.items())),
        token_counter="estimated from bytes" if tokenizer is None else f"counted by {tokenizer.name}",
        config_sha256=hashlib.sha256(settings.model_dump_json(exclude={"sources"}).encode()).hexdigest(),
        libraries=dict(_libraries()),
        created_at=how.now,
    )


def _refuse_nothing(settings: DataSettings, stages: list[Stage]) -> None:
    """Say early that too little is left, with the reasons that cost most."""
    left = stages[-1].require().rows
    if left >= settings.quality.minimum:
        return
    drops: Counter[str] = sum((Counter(stage.require().drops) for stage in stages), Counter())
    why = ", ".join(f"{reason} {count}" for reason, count in drops.most_common(5)) or "the sources are empty"
    raise TooFewExamplesError(
        f"{settings.name}: {left} usable rows; at least {settings.quality.minimum} are needed ({why}). Give more data, "
        "or loosen the filters that cost most"
    )


def _facts(stage: Stage) -> Iterator[Facts]:
    decode = msgspec.json.Decoder(Facts).decode

    def part(index: int) -> Iterator[Facts]:
        with stage.part(index).open("rb") as lines:
            yield from map(decode, lines)

    return chain.from_iterable(part(seal.index) for seal in stage.require().parts)


def _settings_of(step: Step) -> str:
    """Give a step's settings without its secrets: a key counts by its hash."""
    if isinstance(step, Redact):
        return f"{step.rules!r} {digest(step.key.hex())}"
    return repr(step)


def _source_words(name: str, kind: str, table: str | None) -> str:
    return f"{name} ({kind}{f' table {table}' if table else ''})"


def _libraries() -> Iterator[tuple[str, str]]:
    for name in _LIBRARIES:
        try:
            yield name, version(name)
        except PackageNotFoundError:  # an optional one that this recipe did not need
            continue
