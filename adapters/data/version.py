"""The last steps of preparing: divide what is left, add up what happened on the way, write the version."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapters.data.dataset import Provenance, write_dataset
from adapters.data.split import DROPPED, Facts, assign, tabulate
from adapters.data.stage import Stage
from adapters.errors import TooFewExamplesError
from adapters.settings import DataSettings
from adapters.types import DatasetManifest, Example

_LIBRARIES = ("tunegate", "presidio-analyzer", "phonenumbers", "datasketch", "numpy", "tokenizers")
_REASONS_SHOWN = 5


@dataclass(slots=True)
class Tally:
    """What all stages together dropped and counted."""

    drops: Counter[str]
    counts: Counter[str]


def write_version(home: Path, settings: DataSettings, stages: Sequence[Stage], now: float) -> DatasetManifest:
    """Write the dataset version of the last stage's rows, with the story of all stages."""
    unique = stages[-1]
    sides = assign(tabulate(_facts(unique), settings.splitting.seed), settings.splitting)
    provenance = _provenance(settings, _tally(stages, sides), now)
    rows: Iterator[tuple[Example, int]] = zip(unique.examples(), sides.tolist(), strict=True)
    return write_dataset(home, rows, provenance, settings.quality)


def refuse_too_few(settings: DataSettings, stages: Sequence[Stage]) -> None:
    """Say as soon as it is known that too little is left, with the reasons that cost most."""
    left = stages[-1].require().rows
    if left >= settings.quality.minimum:
        return
    drops = sum((Counter(stage.require().drops) for stage in stages), Counter[str]())
    why = ", ".join(f"{reason} {count}" for reason, count in drops.most_common(_REASONS_SHOWN))
    nothing = "nothing was left out" if left else "the sources are empty"
    raise TooFewExamplesError(
        f"{settings.name}: {left} usable rows; at least {settings.quality.minimum} are needed "
        f"({why or nothing}). Give more data, or loosen the filters that cost most"
    )


def _tally(stages: Sequence[Stage], sides: NDArray[np.uint8]) -> Tally:
    tally = Tally(Counter(), Counter())
    for stage in stages:
        manifest = stage.require()
        tally.drops.update(manifest.drops)
        tally.counts.update(manifest.counts)
    homeless = int(np.count_nonzero(sides == DROPPED))
    if homeless:
        tally.drops["split:synthetic_not_in_train"] = homeless
    return tally


def _provenance(settings: DataSettings, tally: Tally, now: float) -> Provenance:
    kinds = {name.partition(":")[2]: n for name, n in tally.counts.items() if name.startswith("redacted:")}
    tokenizer = settings.validation.tokenizer
    return Provenance(
        name=settings.name,
        tenant=settings.tenant,
        sources=tuple(
            f"{one.name} ({one.kind}{f' table {one.table}' if one.table else ''})" for one in settings.sources
        ),
        read=tally.counts["read"],
        drops=dict(sorted(tally.drops.items())),
        redactions=dict(sorted(kinds.items())),
        token_counter="estimated from bytes" if tokenizer is None else f"counted by {tokenizer.name}",
        config_sha256=hashlib.sha256(settings.model_dump_json(exclude={"sources"}).encode()).hexdigest(),
        libraries=dict(_libraries()),
        created_at=now,
    )


def _facts(stage: Stage) -> Iterator[Facts]:
    decode = msgspec.json.Decoder(Facts).decode

    def part(index: int) -> Iterator[Facts]:
        with stage.part(index).open("rb") as lines:
            yield from map(decode, lines)

    return chain.from_iterable(part(seal.index) for seal in stage.require().parts)


def _libraries() -> Iterator[tuple[str, str]]:
    for name in _LIBRARIES:
        try:
            yield name, version(name)
        except PackageNotFoundError:  # an optional one that this recipe did not need
            continue
