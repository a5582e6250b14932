"""The policy as one part of the gateway decides by it: the last known one, and told when that may be old.

Fail mode of authentication and of flags: while SQL is away the last known keys, routes and weights serve, for as long
as the reader's `max_age_seconds`; then nothing is decided any more (503). Each decision by a snapshot that has missed
its polls for `stale_seconds` is told as `last_known`, each that is too late as `refused`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.errors import Unavailable
from app.storage.policy.reader import PolicyReader
from app.storage.policy.snapshot import PolicySnapshot


@dataclass(frozen=True, slots=True)
class LastKnown:
    """Asks the reader, and tells `on_decision` what it has decided without SQL."""

    reader: PolicyReader
    stale_seconds: float
    on_decision: Callable[[str], None]

    def current(self) -> PolicySnapshot:
        """The snapshot; raises Unavailable when it is too old to decide by."""
        try:
            snapshot = self.reader.current()
        except Unavailable:
            self.on_decision("refused")
            raise
        if self.reader.age_seconds > self.stale_seconds:
            self.on_decision("last_known")
        return snapshot
