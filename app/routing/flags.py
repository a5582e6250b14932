"""The sticky weighted choice of a variant: the same subject keeps its variant while the weights stand.

A subject's bucket is a 32-bit hash scaled to the total weight, walked along the variants in their order. Moving weight
between neighbours therefore moves only the subjects in between (from 10 to 20 of 100 moves a tenth), on every replica
alike and after every restart. A switched-off variant gives its subjects to the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from app.types import Variant


def pick(variants: Sequence[Variant], *, flag: str, subject: str) -> Variant | None:
    """The subject's variant under this flag, or None when every weight is zero or switched off."""
    live = [variant for variant in variants if variant.enabled and variant.weight > 0]
    if len(live) <= 1:
        return live[0] if live else None
    total = sum(variant.weight for variant in live)
    digest = blake2b(f"{len(flag)}:{flag}{subject}".encode(), digest_size=4).digest()
    bucket = (int.from_bytes(digest, "big") * total) >> 32
    for variant in live:
        bucket -= variant.weight
        if bucket < 0:
            return variant
    return live[-1]
