"""Sources of a few tickets, fetched for real."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adapters.data.fetch import Fetching, fetch
from adapters.data.rows import Drop
from adapters.data.stage import Silent
from adapters.settings import Columns, DataSettings, Filters, SourceSettings
from adapters.types import Example

AS_OF = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
OPEN = Filters(satisfaction_above=None, last_months=None)
COLUMNS = Columns(
    id="id", customer="who", topic="about", question="q", answer="a", satisfaction="stars", created_at="at"
)
TICKETS: list[dict[str, Any]] = [
    {
        "id": n,
        "who": f"w{n % 2}",
        "about": "Billing",
        "q": f"ask {n}",
        "a": f"answer {n}",
        "stars": 5,
        "at": "2026-10-01",
    }
    for n in range(1, 6)
]


def fetched(folder: Path, *sources: SourceSettings, **changes: Any) -> tuple[list[Example], list[Drop]]:
    """Fetch sources for real: the examples and the drops."""
    settings = DataSettings(name="x", sources=sources, filters=changes.pop("filters", OPEN), **changes)
    stage = fetch(folder / "work", settings, Fetching(b"key", AS_OF, Silent()))
    return list(stage.examples()), [drop for seal in stage.require().parts for drop in stage.dropped(seal)]


def jsonl(path: Path, rows: list[Any]) -> Path:
    """Write rows, or bytes as they are."""
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return path


def source(kind: str, path: Path | None = None, **changes: Any) -> SourceSettings:
    """A ticket source over COLUMNS."""
    return SourceSettings.model_validate({"kind": kind, "path": path, "shape": "ticket", "columns": COLUMNS, **changes})
