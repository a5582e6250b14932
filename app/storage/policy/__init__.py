"""Keys, limits, routes and adapters in memory: read from SQL by revision, looked up without waiting."""

from __future__ import annotations

from app.storage.policy.last_known import LastKnown
from app.storage.policy.reader import PolicyReader
from app.storage.policy.snapshot import PolicySnapshot

__all__ = ["LastKnown", "PolicyReader", "PolicySnapshot"]
