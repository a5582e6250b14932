"""The data's way, in the order in which it is read: fetch, clean, redact, validate, de-duplicate, split, version.

Stages hand each other folders whose manifest is written last (`adapters.data.stage`): each can be run again alone, goes
on after a kill, and is not run twice on the same input. Validation stands before de-duplication, so that what is kept
of a kind is never a row that then turns out invalid. Which engine runs the steps changes nothing in what they give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from adapters.data.clean import Clean
from adapters.data.deduplicate import Search, Unique, decide
from adapters.data.embeddings import HttpEmbedder
from adapters.data.engine import Engine, Task
from adapters.data.fetch import Fetching, fetch
from adapters.data.fingerprint import Fingerprint, signing
from adapters.data.near import arrays_of
from adapters.data.redact import Redact
from adapters.data.stage import MapPart, Progress, Stage, Step, digest, open_stage, waiting
from adapters.data.validate import Validate
from adapters.data.version import refuse_too_few, write_version
from adapters.data.workspace import Workspace
from adapters.settings import DataSettings
from adapters.types import DatasetManifest

STAGES = ("fetch", "clean", "redact", "validate", "unique")
_VERSIONS = {"clean": "1", "redact": "1", "validate": "1", "fingerprint": "1", "unique": "1"}


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
    done = list(stages(how))
    how.progress.start("split and write", None)
    return write_version(how.workspace.home, how.settings, done, how.now)


def stages(how: Preparation) -> Iterator[Stage]:
    """Run the stages one after the other; a caller that stops asking stops the work there."""
    settings, key = how.settings, how.workspace.key
    yield (fetched := fetch(how.workspace.stages, settings, Fetching(key, how.as_of, how.progress)))
    yield (cleaned := _map(how, "clean", fetched, Clean(settings.cleaning)))
    yield (redacted := _map(how, "redact", cleaned, Redact(settings.redaction, key)))
    yield (valid := _map(how, "validate", redacted, Validate(settings.validation)))
    refuse_too_few(settings, [fetched, cleaned, redacted, valid])
    yield _deduplicate(how, valid)


def _map(how: Preparation, name: str, source: Stage, step: Step) -> Stage:
    """Run a step over every part of a stage."""
    return _run(how, name, source, _settings_of(step), lambda target: MapPart(step, source, target))


def _deduplicate(how: Preparation, valid: Stage) -> Stage:
    """Compute what rows are compared by, decide over all of them, and apply that part by part."""
    rules = how.settings.deduplication
    bands = signing(rules.permutations, rules.group)
    embed = None if rules.embeddings is None else HttpEmbedder(rules.embeddings)
    inputs = f"{bands} {rules.embeddings and rules.embeddings.model}"
    prints = _run(how, "fingerprint", valid, inputs, lambda target: Fingerprint(valid, target, bands, embed))
    search = Search(how.workspace.stages, how.engine, how.progress, rules)
    decisions, arrays = decide(search, prints, bands.bands), arrays_of(prints)
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


def _settings_of(step: Step) -> str:
    """Give a step's settings without its secrets: a key counts by its hash."""
    return f"{step.rules!r} {digest(step.key.hex())}" if isinstance(step, Redact) else repr(step)
