"""The first stage: read sources as streams, convert their rows, seal them in parts; go on behind the last one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec

from adapters.data.convert import Converter
from adapters.data.files import read_csv, read_jsonl, read_parquet
from adapters.data.rows import Drop, Outcome, Record
from adapters.data.sql import read_sql
from adapters.data.stage import PartSeal, Progress, Stage, digest, open_stage
from adapters.data.storage import sha256_of
from adapters.errors import BadFileError, SourceError
from adapters.settings import DataSettings, SourceSettings
from adapters.types import Example

SHOWN_PROBLEMS = 10
_VERSION = "1"


@dataclass(frozen=True, slots=True)
class Fetching:
    """What fetching needs beside the recipe: the key of hashes, the instant ages count from, who is told."""

    key: bytes
    as_of: float
    progress: Progress


def fetch(work: Path, settings: DataSettings, how: Fetching) -> Stage:
    """Fetch every source in the recipe's order; what is sealed is not read again."""
    stage = open_stage(work, "fetch", *_inputs(settings, how))
    how.progress.start("fetch", None)
    if stage.manifest() is not None:
        return stage
    seals = stage.seals()
    first, after = seals[-1].cursor if seals and seals[-1].cursor else (0, None)
    for number, source in enumerate(settings.sources):
        if number >= first:
            _read(stage, settings, how, number, after if number == first else None)
        _refuse_bad_source(stage, number, source)
    stage.finish()
    return stage


def records(source: SourceSettings, after: int | str | None) -> Iterator[Record]:
    """Stream a source from behind a cursor."""
    if source.kind == "sql":
        return read_sql(source, after)
    if source.path is None:
        raise SourceError(f"source `{source.name}`: `path` is missing")
    readers = {"csv": read_csv, "parquet": read_parquet}
    return readers.get(source.kind, read_jsonl)(source.path, int(after or 0))


def _read(stage: Stage, settings: DataSettings, how: Fetching, number: int, after: int | str | None) -> None:
    source = settings.sources[number]
    converter = Converter(source, settings.filters, settings.topics, how.key, how.as_of)
    rows = converter.examples(records(source, after))
    index = len(stage.seals())
    while batch := list(islice(rows, settings.rows_per_part)):
        _seal(stage, index, number, batch)
        how.progress.advance(len(batch))
        index += 1


def _inputs(settings: DataSettings, how: Fetching) -> list[str]:
    """Name everything that decides what is fetched: a file by its content, a database by the day."""
    chosen = [source.model_dump(mode="json", exclude={"path", "broken_share"}) for source in settings.sources]
    filters = settings.filters.model_dump(mode="json")
    topics = [topic.model_dump(mode="json") for topic in settings.topics]
    rules = msgspec.json.encode([chosen, filters, topics, settings.rows_per_part, how.as_of], order="sorted").decode()
    return [_VERSION, rules, digest(how.key.hex()), *(_content(source) for source in settings.sources)]


def _content(source: SourceSettings) -> str:
    try:
        return sha256_of(source.path) if source.path is not None else ""
    except OSError as exc:
        raise SourceError(f"{source.path}: cannot be read ({exc.strerror}); check its path") from exc


def _seal(stage: Stage, index: int, number: int, batch: list[tuple[int | str, Example | Drop]]) -> PartSeal:
    outcome = Outcome([row for _, row in batch if isinstance(row, Example)])
    outcome.drops = [row for _, row in batch if isinstance(row, Drop)]
    outcome.counts["read"] = len(batch)
    return stage.seal(index, outcome, (number, batch[-1][0]))


def _refuse_bad_source(stage: Stage, number: int, source: SourceSettings) -> None:
    """Fail a source with more broken rows than its share, with counts and the first ten."""
    seals = [seal for seal in stage.seals() if seal.cursor and seal.cursor[0] == number]
    read = sum(seal.counts["read"] for seal in seals)
    broken = [drop for seal in seals for drop in stage.dropped(seal) if drop.reason.startswith("broken:")]
    if broken and len(broken) > source.broken_share * read:
        raise BadFileError(describe(source.path.name if source.path else source.name, read, broken))


def describe(name: str, read: int, broken: list[Drop]) -> str:
    """Put into words what is wrong with a source: counts by rule, and the first ten rows."""
    counts: dict[str, int] = {}
    for drop in broken:
        counts[drop.reason] = counts.get(drop.reason, 0) + 1
    listed = ", ".join(f"{rule.removeprefix('broken:')} {count}" for rule, count in sorted(counts.items()))
    first = "\n".join(f"  {_told(drop)}" for drop in broken[:SHOWN_PROBLEMS])
    return (
        f"{name}: {len(broken)} of {read} rows are broken ({listed}); correct them and start again. The first:\n{first}"
    )


def _told(drop: Drop) -> Drop:
    """A drop whose reason is the rule alone, as `check` has it."""
    return msgspec.structs.replace(drop, reason=drop.reason.removeprefix("broken:"))
