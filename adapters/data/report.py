"""What a dataset is worth: its counts against 100 and 1,000, how its topics are covered, what does not fit in.

The lineage is streamed; what is kept is four bytes per row and the customers' hashes, nothing of a text.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapters.settings import Quality
from adapters.types import DatasetManifest, Lineage, Split

OUTLIER_DEVIATIONS = 5.0
_SHOWN = 20
_NORMAL = 1.4826  # turns the median absolute deviation of normal data into its standard deviation


class Spread(msgspec.Struct, frozen=True):
    """The size of rows in tokens: median, 95th percentile, largest."""

    median: float
    p95: float
    largest: int


class Outlier(msgspec.Struct, frozen=True):
    """A row far from the others in length, in robust standard deviations of the logarithm."""

    id: str
    origin: str
    tokens: int
    deviations: float


class TopicCoverage(msgspec.Struct, frozen=True):
    """How many examples a topic has on each side."""

    train: int
    validation: int
    test: int


class QualityReport(msgspec.Struct, frozen=True, kw_only=True):
    """The report; `verdict` says in a word what the count is good for, `warnings` what to look at."""

    version: str
    verdict: str
    rows: dict[Split, int]
    topics: dict[str, TopicCoverage]
    topic_balance: float
    customers: int
    synthetic_share: float
    tokens: Spread
    outliers: tuple[Outlier, ...]
    warnings: tuple[str, ...]


@dataclass(slots=True)
class _Seen:
    """What one pass over the lineage leaves: counts, and four bytes per row."""

    topics: dict[str, Counter[Split]] = field(default_factory=lambda: defaultdict(Counter))
    customers: set[str] = field(default_factory=set)
    tokens: array[int] = field(default_factory=lambda: array("i"))

    def add(self, side: Split, row: Lineage) -> None:
        """Count one row."""
        self.topics[row.topic][side] += 1
        self.tokens.append(row.tokens)
        if row.customer:
            self.customers.add(row.customer)


def quality_report(folder: Path, manifest: DatasetManifest, rules: Quality) -> QualityReport:
    """Report on a dataset version."""
    seen = _Seen()
    for side, row in _lineage(folder, manifest):
        seen.add(side, row)
    rows = {side: split.rows for side, split in manifest.splits.items()}
    topics = {topic: TopicCoverage(*(seen.topics[topic][side] for side in Split)) for topic in sorted(seen.topics)}
    outliers = _outliers(np.array(seen.tokens or [1]), _lineage(folder, manifest))
    return QualityReport(
        version=manifest.version,
        verdict=verdict(rows[Split.TRAIN], rules),
        rows=rows,
        topics=topics,
        topic_balance=round(evenness([sum(msgspec.structs.astuple(topic)) for topic in topics.values()]), 3),
        customers=len(seen.customers),
        synthetic_share=round(manifest.synthetic_rows / max(1, manifest.rows), 4),
        tokens=_spread(np.array(seen.tokens or [0])),
        outliers=outliers,
        warnings=tuple(_warnings(rows, topics, manifest, rules) + _oddities(outliers)),
    )


def verdict(train_rows: int, rules: Quality) -> str:
    """Say what so many training examples are good for."""
    if train_rows < rules.minimum:
        return "refused"
    if train_rows < rules.usable:
        return "too few"
    return "usable" if train_rows < rules.good else "good"


def evenness(counts: Sequence[int]) -> float:
    """Give Shannon's evenness of topic counts: 1 when all are equal, towards 0 when one has nearly everything."""
    total = sum(counts)
    if len(counts) < 2 or not total:
        return 1.0
    return -sum(count / total * math.log(count / total) for count in counts if count) / math.log(len(counts))


def _lineage(folder: Path, manifest: DatasetManifest) -> Iterator[tuple[Split, Lineage]]:
    decoder = msgspec.json.Decoder(Lineage)
    for side, split in manifest.splits.items():
        with (folder / split.lineage_path).open("rb") as lines:
            for line in lines:
                yield side, decoder.decode(line)


def _spread(tokens: NDArray[np.int64]) -> Spread:
    return Spread(float(np.median(tokens)), float(np.percentile(tokens, 95)), int(tokens.max()))


def _outliers(tokens: NDArray[np.int64], rows: Iterable[tuple[Split, Lineage]]) -> tuple[Outlier, ...]:
    logs = np.log(np.maximum(tokens, 1))
    median = np.median(logs)
    deviations = (logs - median) / max(_NORMAL * float(np.median(np.abs(logs - median))), 0.05)
    farthest = np.argsort(-np.abs(deviations), kind="stable")[:_SHOWN].tolist()
    far = {place for place in farthest if abs(deviations[place]) > OUTLIER_DEVIATIONS}
    found = {
        place: Outlier(row.id, row.origin, row.tokens, round(float(deviations[place]), 1))
        for place, (_, row) in enumerate(rows)
        if place in far
    }
    return tuple(found[place] for place in farthest if place in far)


def _warnings(
    rows: dict[Split, int], topics: dict[str, TopicCoverage], manifest: DatasetManifest, rules: Quality
) -> list[str]:
    train = rows[Split.TRAIN]
    out = []
    if train < rules.usable:
        out.append(
            f"{train} training examples: below {rules.usable} an adapter rarely shows more than a change of tone"
        )
    elif train < rules.good:
        out.append(f"{train} training examples: usable; quality still grows up to {rules.good} and beyond")
    if not rows[Split.TEST]:
        out.append("the test side is empty: nothing can be proved with this dataset")
    thin = [topic or "(none)" for topic, sides in topics.items() if sides.train < rules.topic_minimum]
    if thin:
        out.append(f"topics with fewer than {rules.topic_minimum} training examples: {', '.join(thin[:_SHOWN])}")
    unjudged = [topic or "(none)" for topic, sides in topics.items() if sides.train and not sides.test]
    if unjudged:
        out.append(f"topics that the test side does not judge: {', '.join(unjudged[:_SHOWN])}")
    if manifest.synthetic_rows > manifest.rows / 2:
        out.append("more than half of the rows are synthetic: the adapter will learn the teacher's voice")
    return out


def _oddities(outliers: Sequence[Outlier]) -> list[str]:
    if not outliers:
        return []
    return [f"{len(outliers)} rows are far longer or shorter than the rest, first {outliers[0].origin}"]
