"""How well the semantic tier tells the labelled pairs apart: paraphrases found and false hits, with and without guard.

A *false hit* is a near miss that would have been answered from the cache. Its rate is the share of all near misses that
are false hits: harsher than the share of served answers, for real traffic holds few questions so near to each other.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.cache.features import features
from app.cache.guard import GuardReason, refusal
from app.interfaces import Embedder

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Pair:
    """Two questions and whether they may share an answer; `kind` says how they differ if not."""

    kind: str
    same: bool
    family: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Judged:
    """A pair as the semantic tier sees it."""

    pair: Pair
    similarity: float
    reason: GuardReason | None

    def hits(self, threshold: float, *, guarded: bool = True) -> bool:
        """Whether the one would be answered with the other's answer."""
        return self.similarity >= threshold and not (guarded and self.reason is not None)


@dataclass(frozen=True, slots=True)
class Rates:
    """Paraphrases found and near misses served."""

    paraphrases: int
    found: int
    near_misses: int
    false_hits: int

    @property
    def recall(self) -> float:
        """Share of the paraphrases that are found."""
        return self.found / self.paraphrases

    @property
    def false_hit_rate(self) -> float:
        """Share of the near misses that are served."""
        return self.false_hits / self.near_misses


def load(half: str) -> list[Pair]:
    """The committed pairs of one half."""
    lines = (FOLDER / f"{half}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Pair(**json.loads(line)) for line in lines]


async def judge(pairs: Sequence[Pair], embedder: Embedder) -> list[Judged]:
    """Similarity and guard's reason of every pair."""
    texts = sorted({text for pair in pairs for text in (pair.a, pair.b)})
    batches = [texts[start : start + 64] for start in range(0, len(texts), 64)]
    vectors = [row for rows in await asyncio.gather(*map(embedder.embed, batches)) for row in rows]
    of = dict(zip(texts, vectors, strict=True))
    return [Judged(pair, float(of[pair.a] @ of[pair.b]), refusal(features(pair.a), features(pair.b))) for pair in pairs]


def rates(judged: Sequence[Judged], threshold: float, *, guarded: bool = True) -> Rates:
    """What the tier does with these pairs at a threshold."""
    counts = Counter((one.pair.same, one.hits(threshold, guarded=guarded)) for one in judged)
    return Rates(
        paraphrases=counts[True, True] + counts[True, False],
        found=counts[True, True],
        near_misses=counts[False, True] + counts[False, False],
        false_hits=counts[False, True],
    )
