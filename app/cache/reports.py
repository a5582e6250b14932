"""Who hears of what the cache does; metrics, in the gateway."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.cache.guard import GuardReason


@dataclass(frozen=True, slots=True)
class Reports:
    """One function for each thing that happens.

    `refused`: the guard held a near answer back. `compared`: a hit of this route was compared, and agreed or not.
    `away`: what was done (`bypassed`, `refused`, `not_kept`) without what is away (`redis`, `embedder`).
    """

    refused: Callable[[GuardReason], None] = lambda _reason: None
    compared: Callable[[str, bool], None] = lambda _route, _agreed: None
    away: Callable[[str, str], None] = lambda _decision, _away: None


TO_NOBODY = Reports()
