"""How a stage lies on disk, and how it goes on after a kill.

A stage is a folder named by its fingerprint: its configuration, the version of its code and the manifest of the stage
before. It holds numbered parts, each sealed by a small file that is written after it, and a manifest, written last. So
a folder with a manifest is whole, a part with a seal is whole, and whatever else lies there is written again. A changed
setting gives another folder: stale parts can never be mixed in.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol

import msgspec

from adapters.data.rows import Drop, Outcome, encode_lines, read_drops, read_examples
from adapters.data.storage import full_disk_in_words, write_bytes, write_lines
from adapters.types import Example

Step = Callable[[Sequence[Example]], Outcome]


class Progress(Protocol):
    """Who is told how far a stage is: the command line's bars, or nobody."""

    def start(self, stage: str, total: int | None) -> None:
        """A stage begins; `total` is its number of parts, where that is known."""
        ...

    def advance(self, rows: int) -> None:
        """One more part is done."""
        ...


class Silent:
    """Nobody is told."""

    def start(self, stage: str, total: int | None) -> None:
        """Say nothing."""

    def advance(self, rows: int) -> None:
        """Say nothing."""


class PartSeal(msgspec.Struct, frozen=True):
    """What one part is; written after its rows, so it proves them. `cursor`: the source and place to go on from."""

    index: int
    rows: int
    sha256: str
    drops: dict[str, int]
    counts: dict[str, int]
    cursor: tuple[int, int | str] | None = None


class StageManifest(msgspec.Struct, frozen=True):
    """What a stage gave: written last."""

    stage: str
    fingerprint: str
    parts: tuple[PartSeal, ...]
    rows: int
    drops: dict[str, int]
    counts: dict[str, int]

    @property
    def sha256(self) -> str:
        """Name the stage's content: what the next stage's fingerprint is made from."""
        return digest(self.stage, *(part.sha256 for part in self.parts))


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage's folder."""

    name: str
    folder: Path
    fingerprint: str

    def manifest(self) -> StageManifest | None:
        """What the stage gave, when it is whole."""
        path = self.folder / "manifest.json"
        return msgspec.json.decode(path.read_bytes(), type=StageManifest) if path.exists() else None

    def require(self) -> StageManifest:
        """What the stage gave; a stage that is not whole is a bug of the caller."""
        manifest = self.manifest()
        if manifest is None:
            raise FileNotFoundError(self.folder / "manifest.json")
        return manifest

    def part(self, index: int) -> Path:
        """The rows of a part."""
        return self.folder / f"part-{index:06}.jsonl"

    def array(self, index: int, name: str) -> Path:
        """An array that belongs to a part."""
        return self.folder / f"part-{index:06}.{name}.npy"

    def seals(self) -> list[PartSeal]:
        """Every sealed part, in order."""
        decoder = msgspec.json.Decoder(PartSeal)
        return [decoder.decode(path.read_bytes()) for path in sorted(self.folder.glob("part-*.seal.json"))]

    def seal(self, index: int, outcome: Outcome, cursor: tuple[int, int | str] | None = None) -> PartSeal:
        """Write a part and, after it, its seal."""
        drops = self.folder / f"part-{index:06}.drops.jsonl"
        drops.unlink(missing_ok=True)
        if outcome.drops:
            write_lines(drops, encode_lines(outcome.drops))
        sha256 = write_lines(self.part(index), encode_lines(outcome.kept))
        reasons = Counter(drop.reason for drop in outcome.drops)
        return self.seal_arrays(
            PartSeal(index, len(outcome.kept), sha256, dict(sorted(reasons.items())), dict(outcome.counts), cursor)
        )

    def seal_arrays(self, seal: PartSeal) -> PartSeal:
        """Write the seal of a part whose files are there."""
        write_bytes(self.folder / f"part-{seal.index:06}.seal.json", msgspec.json.encode(seal))
        return seal

    def finish(self) -> StageManifest:
        """Write the manifest: from now on the stage is whole."""
        seals = self.seals()
        drops, counts = Counter[str](), Counter[str]()
        for seal in seals:
            drops.update(seal.drops)
            counts.update(seal.counts)
        manifest = StageManifest(
            self.name,
            self.fingerprint,
            tuple(seals),
            sum(seal.rows for seal in seals),
            dict(sorted(drops.items())),
            dict(sorted(counts.items())),
        )
        write_bytes(self.folder / "manifest.json", msgspec.json.encode(manifest))
        for leftover in self.folder.glob(".*"):  # of writers that were killed
            leftover.unlink()
        return manifest

    def examples(self) -> Iterator[Example]:
        """Stream every row of a whole stage, in order."""
        return chain.from_iterable(read_examples(self.part(seal.index)) for seal in self.require().parts)

    def dropped(self, seal: PartSeal) -> Iterator[Drop]:
        """Stream the dropped rows of a part, in order."""
        return read_drops(self.folder / f"part-{seal.index:06}.drops.jsonl")


def open_stage(work: Path, name: str, *inputs: str) -> Stage:
    """Open (or go on with) the stage that these inputs name."""
    fingerprint = digest(name, *inputs)
    folder = work / f"{name}-{fingerprint[:12]}"
    with full_disk_in_words(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Stage(name, folder, fingerprint)


def digest(*parts: str) -> str:
    """Hash several texts so that their borders count."""
    state = hashlib.sha256()
    for part in parts:
        raw = part.encode()
        state.update(len(raw).to_bytes(8, "big") + raw)
    return state.hexdigest()


def after(*steps: Step) -> Step:
    """Give the step that does these one after the other."""

    def chained(batch: Sequence[Example]) -> Outcome:
        total = Outcome(list(batch))
        for step in steps:
            outcome = step(total.kept)
            total = Outcome(outcome.kept, total.drops + outcome.drops, total.counts + outcome.counts)
        return total

    return chained


@dataclass(frozen=True, slots=True)
class MapPart:
    """Run a step over one part: what an engine sends to its workers."""

    step: Step
    source: Stage
    target: Stage

    def __call__(self, index: int) -> int:
        """Read, work, write, seal; gives the number of rows read."""
        batch = list(read_examples(self.source.part(index)))
        self.target.seal(index, self.step(batch))
        return len(batch)


def waiting(source: Iterable[PartSeal], target: Stage) -> list[int]:
    """Indexes of the parts that are not sealed yet."""
    done = {seal.index for seal in target.seals()}
    return [seal.index for seal in source if seal.index not in done]
