"""What was planted against what was found: precision and recall of each stage, and leaks between the sides."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from adapters.data.dataset import examples_of
from adapters.data.rows import Drop, read_examples
from adapters.data.stage import Stage
from adapters.settings import Columns, DataSettings, SourceSettings
from adapters.types import DatasetManifest, Example, Split
from tests.adapters.data.support_db import COLUMNS, Planted


@dataclass(frozen=True, slots=True)
class Figure:
    """How many of the planted were found, and how many of the found were planted."""

    name: str
    planted: int
    found: int
    right: int

    @property
    def recall(self) -> float:
        """Share of the planted that was found."""
        return self.right / self.planted if self.planted else 1.0

    @property
    def precision(self) -> float:
        """Share of the found that was planted."""
        return self.right / self.found if self.found else 1.0

    def __str__(self) -> str:
        return f"{self.name:<16} planted {self.planted:>6}  precision {self.precision:.4f}  recall {self.recall:.4f}"


def recipe(url: str, rows_per_part: int = 5_000) -> DataSettings:
    """The recipe for the support database."""
    source = SourceSettings(
        kind="sql", name="db", url=url, table="tickets", shape="ticket", columns=Columns.model_validate(COLUMNS)
    )
    return DataSettings(name="support", sources=(source,), rows_per_part=rows_per_part)


def stage(home: Path, name: str) -> Stage:
    """The one stage of that name in a work folder."""
    (folder,) = (home / "stages").glob(f"{name}-*")
    return Stage(name, folder, "")


def duplicates(home: Path, planted: Planted) -> list[Figure]:
    """Copies whose original also came so far, by kind and together, against all that was dropped as a duplicate."""
    valid = {number(example.id) for example in stage(home, "validate").examples()}
    dropped = {number(drop.id) for drop in drops(stage(home, "unique"))}
    copies = planted.exact | planted.near
    reachable = {copy for copy in copies if copy in valid and _root(copy, copies) in valid}
    exact, near = reachable & planted.exact.keys(), reachable & planted.near.keys()
    return [
        Figure("exact copies", len(exact), len(exact & dropped), len(exact & dropped)),
        Figure("near copies", len(near), len(near & dropped), len(near & dropped)),
        Figure("all duplicates", len(reachable), len(dropped), len(reachable & dropped)),
    ]


def personal(home: Path, planted: Planted) -> list[Figure]:
    """Values planted in rows that reached redaction, against the stand-ins that were written, by kind."""
    before = {number(example.id): text_of(example) for example in stage(home, "clean").examples()}
    after = {number(example.id): text_of(example) for example in stage(home, "redact").examples()}
    figures = []
    for kind in ("EMAIL", "PHONE", "CARD", "IBAN"):
        values = [
            (row, value)
            for row, items in planted.personal.items()
            for found, value in items
            if found == kind and row in before and value in before[row]
        ]
        gone = sum(value not in after[row] for row, value in values)
        written = sum(text.count(f"[{kind}-") for text in after.values())
        figures.append(Figure(kind, len(values), written, gone))
    return figures


def cleaned(home: Path, planted: Planted) -> list[Figure]:
    """Signatures, quotes and URLs planted in rows that were cleaned, against what was taken out."""
    counts = stage(home, "clean").require().counts
    after = {number(example.id): text_of(example) for example in stage(home, "clean").examples()}
    figures = []
    for name, items in (("signature", planted.signatures), ("quote", planted.quotes), ("url", planted.urls)):
        reached = {row: words for row, words in items.items() if row in after}
        gone = sum(words not in after[row] for row, words in reached.items())
        figures.append(Figure(name, len(reached), counts[f"cleaned:{name}"], gone))
    return figures


def leaks(folder: Path) -> dict[str, int]:
    """Customers and near-duplicate clusters that stand on more than one side: must be none."""
    sides: dict[str, dict[str, set[Split]]] = {"customers": defaultdict(set), "clusters": defaultdict(set)}
    for side in Split:
        for example in examples_of(folder, side):
            if example.customer:
                sides["customers"][example.customer].add(side)
            if example.cluster:
                sides["clusters"][example.cluster].add(side)
    return {name: sum(len(found) > 1 for found in groups.values()) for name, groups in sides.items()}


def adds_up(manifest: DatasetManifest) -> bool:
    """Every row that was read is in the dataset or was counted as dropped."""
    return manifest.read == manifest.rows + sum(manifest.drops.values())


def drops(of: Stage) -> Iterator[Drop]:
    """Every dropped row of a stage."""
    for seal in of.require().parts:
        yield from of.dropped(seal)


def number(id_: str) -> int:
    """The ticket's number in an example's id."""
    return int(id_.partition(":")[2])


def text_of(example: Example) -> str:
    """All texts of an example."""
    return "\n".join(message.content or "" for message in example.messages)


def digits(text: str) -> str:
    """Only the digits, for numbers that are written with dividers."""
    return re.sub(r"\D", "", text)


def rows_of(paths: Iterable[Path]) -> int:
    """How many examples lie in some parts."""
    return sum(1 for path in paths for _ in read_examples(path))


def _root(row: int, copies: dict[int, int]) -> int:
    while row in copies:
        row = copies[row]
    return row
