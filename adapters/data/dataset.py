"""A dataset version: three JSONL files in OpenAI's chat form, their lineage, a card, a report, and the manifest last.

The version is made of the content of the three files alone, so the same rows have the same version whatever the day,
the machine or the engine. A folder under `datasets/` is whole, for it gets its name by a rename at the very end;
writing the same version again changes nothing.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec

from adapters.data.card import data_card
from adapters.data.report import quality_report
from adapters.data.split import SIDES
from adapters.data.stage import digest
from adapters.data.storage import full_disk_in_words, sha256_of, write_bytes
from adapters.errors import StageError, TooFewExamplesError
from adapters.settings import Quality
from adapters.types import ChatLine, DatasetManifest, Example, Lineage, Split, SplitFile

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the manifest says beside the content."""

    name: str
    tenant: str
    sources: tuple[str, ...]
    read: int
    drops: Mapping[str, int]
    redactions: Mapping[str, int]
    token_counter: str
    config_sha256: str
    libraries: Mapping[str, str]
    created_at: float


@dataclass(slots=True)
class _Side:
    """One side while it is written."""

    side: Split
    data: BinaryIO
    lineage: BinaryIO
    rows: int = 0
    tokens: int = 0
    synthetic: int = 0
    data_hash: hashlib._Hash = field(default_factory=hashlib.sha256)
    lineage_hash: hashlib._Hash = field(default_factory=hashlib.sha256)

    def add(self, example: Example) -> None:
        line, lineage = encode(example)
        self.data.write(line)
        self.lineage.write(lineage)
        self.data_hash.update(line)
        self.lineage_hash.update(lineage)
        self.rows += 1
        self.tokens += example.tokens
        self.synthetic += example.synthetic

    def file(self) -> SplitFile:
        return SplitFile(
            f"{self.side}.jsonl",
            self.data_hash.hexdigest(),
            self.rows,
            self.tokens,
            f"{self.side}.lineage.jsonl",
            self.lineage_hash.hexdigest(),
        )


def write_dataset(
    home: Path, rows: Iterable[tuple[Example, int]], provenance: Provenance, quality: Quality
) -> DatasetManifest:
    """Write a version under `home/datasets/`; rows come with the number of their side (see `split.SIDES`)."""
    building = home / "datasets" / f".building-{provenance.name}-{provenance.config_sha256[:12]}"
    shutil.rmtree(building, ignore_errors=True)  # of a run that was killed
    with full_disk_in_words(building):
        building.mkdir(parents=True, mode=0o700)
        topics: Counter[str] = Counter()
        sides = _write_sides(building, rows, topics)
        manifest = _manifest(provenance, sides, dict(sorted(topics.items())))
        _refuse_too_few(manifest, quality)
        return _publish(home, building, manifest, quality)


def encode(example: Example) -> tuple[bytes, bytes]:
    """Give an example's line of data and its line of lineage."""
    lineage = Lineage(**{name: getattr(example, name) for name in Lineage.__struct_fields__})
    return msgspec.json.encode(example.chat()) + b"\n", msgspec.json.encode(lineage) + b"\n"


def read_manifest(folder: Path) -> DatasetManifest:
    """Read the manifest of a dataset version; raises StageError when the folder is not one."""
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=DatasetManifest)
    except FileNotFoundError:
        raise StageError(f"{folder}: is no dataset (it has no {MANIFEST}); run `adapters prepare` first") from None
    except msgspec.DecodeError as exc:
        raise StageError(f"{folder / MANIFEST}: {exc}; it was written by another version or by hand") from exc


def verify(folder: Path) -> DatasetManifest:
    """Check that every file is what the manifest says; raises StageError naming the file that is not."""
    manifest = read_manifest(folder)
    for split in manifest.splits.values():
        for name, expected in ((split.path, split.sha256), (split.lineage_path, split.lineage_sha256)):
            if not (folder / name).is_file() or sha256_of(folder / name) != expected:
                raise StageError(f"{folder / name}: is not what the manifest says; prepare the dataset again")
    if manifest.sha256 != content_sha256(manifest.splits):
        raise StageError(f"{folder / MANIFEST}: the version does not belong to these files; prepare the dataset again")
    return manifest


def examples_of(folder: Path, side: Split) -> Iterator[Example]:
    """Stream one side of a dataset as examples, data and lineage joined line by line."""
    split = read_manifest(folder).splits[side]
    chats, lineages = msgspec.json.Decoder(ChatLine), msgspec.json.Decoder(Lineage)
    with (folder / split.path).open("rb") as data, (folder / split.lineage_path).open("rb") as lineage:
        for line, origin in zip(data, lineage, strict=True):
            known = msgspec.structs.asdict(lineages.decode(origin))
            yield Example(**msgspec.structs.asdict(chats.decode(line)), **known)


def content_sha256(splits: Mapping[Split, SplitFile]) -> str:
    """Hash the content of the three data files; lineage is not content."""
    return digest("tunegate-dataset-1", *(f"{side}:{splits[side].sha256}" for side in Split))


def _write_sides(building: Path, rows: Iterable[tuple[Example, int]], topics: Counter[str]) -> list[_Side]:
    with ExitStack() as files:
        sides = [
            _Side(
                side,
                files.enter_context((building / f"{side}.jsonl").open("wb")),
                files.enter_context((building / f"{side}.lineage.jsonl").open("wb")),
            )
            for side in SIDES
        ]
        for example, side in rows:
            if side < len(sides):
                sides[side].add(example)
                topics[example.topic] += 1
        return sides


def _manifest(provenance: Provenance, sides: list[_Side], topics: dict[str, int]) -> DatasetManifest:
    splits = {side.side: side.file() for side in sides}
    sha256 = content_sha256(splits)
    return DatasetManifest(
        name=provenance.name,
        version=f"{provenance.name}@{sha256[:12]}",
        sha256=sha256,
        splits=splits,
        rows=sum(side.rows for side in sides),
        tokens=sum(side.tokens for side in sides),
        token_counter=provenance.token_counter,
        sources=provenance.sources,
        read=provenance.read,
        drops=dict(provenance.drops),
        redactions=dict(provenance.redactions),
        topics=topics,
        synthetic_rows=sum(side.synthetic for side in sides),
        config_sha256=provenance.config_sha256,
        libraries=dict(provenance.libraries),
        created_at=provenance.created_at,
        tenant=provenance.tenant,
    )


def _refuse_too_few(manifest: DatasetManifest, quality: Quality) -> None:
    train = manifest.splits[Split.TRAIN].rows
    if train >= quality.minimum:
        return
    largest = sorted(manifest.drops.items(), key=lambda item: -item[1])[:5]
    why = ", ".join(f"{reason} {count}" for reason, count in largest) or "nothing was left out"
    raise TooFewExamplesError(
        f"{manifest.name}: {train} training examples are left of {manifest.read} rows; at least {quality.minimum} are "
        f"needed ({why}). Give more data, or loosen the filters that cost most"
    )


def _publish(home: Path, building: Path, manifest: DatasetManifest, quality: Quality) -> DatasetManifest:
    """Write card, report and manifest, and give the folder its name; a version that is there already stays."""
    final = home / "datasets" / manifest.version
    if (final / MANIFEST).exists():
        shutil.rmtree(building)
        return read_manifest(final)
    report = quality_report(building, manifest, quality)
    write_bytes(building / "report.json", msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    write_bytes(building / "README.md", data_card(manifest, report.warnings).encode())
    write_bytes(building / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
    building.rename(final)
    return manifest
