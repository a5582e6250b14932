"""The line of a request is the same by the short way and by structlog's."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import structlog

from app.observability.logging import CHATTY, configure
from app.observability.request_log import by_structlog, request_log
from app.types import LedgerEntry
from tests.support.entries import entry

ENTRY = entry(
    number=1,
    team_id="team",
    key_id="key-secret",
    user_hash="user-secret",
    variant="main",
    upstream="pool",
    model="acme--tone@abc",
    prompt_tokens=7,
    cost_microusd=12,
    latency_ms=40,
    first_byte_ms=9,
)
Format = Literal["json", "console"]
Level = Literal["debug", "info", "warning", "error"]


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave logging as it was."""
    root = logging.getLogger()
    kept = (root.level, root.handlers[:])
    for name in CHATTY:
        monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
    yield
    logging.captureWarnings(capture=False)
    root.setLevel(kept[0])
    root.handlers[:] = kept[1]
    structlog.reset_defaults()


def written(way: Callable[[LedgerEntry], None], output: io.BytesIO) -> dict[str, Any]:
    """The one line that this way writes of the entry, without its moment."""
    output.seek(0)
    output.truncate()
    way(ENTRY)
    (line,) = output.getvalue().splitlines()
    fields: dict[str, Any] = json.loads(line)
    assert list(fields)[:3] == ["timestamp", "level", "event"]
    assert fields.pop("timestamp").endswith("Z")
    return fields


@pytest.mark.parametrize("trace", [None, "0af7651916cd43dd8448eb211c80319c"])
def test_both_ways_write_the_same_line(trace: str | None) -> None:
    """Every field, in the same order, with the trace's id where there is one; nobody's key, nobody's user."""
    output = io.BytesIO()
    configure("json", "info", output=output, trace_id=lambda: trace)
    short = request_log("json", "info", output=output, trace_id=lambda: trace)
    one, other = written(short, output), written(by_structlog, output)
    assert list(one.items()) == list(other.items())
    assert one["outcome"] == "ok"
    assert one.get("trace_id") == trace
    assert b"secret" not in output.getvalue()


@pytest.mark.parametrize(("log_format", "level", "lines"), [("console", "info", 1), ("json", "warning", 0)])
def test_people_s_form_and_quiet_levels_are_structlog_s(log_format: Format, level: Level, lines: int) -> None:
    """For people as structlog prints it; from WARNING on there is no line of a request."""
    output = io.BytesIO()
    output.isatty = lambda: False  # type: ignore[method-assign]  # a file
    configure(log_format, level, output=output)
    request_log(log_format, level, output=output)(ENTRY)
    assert len(output.getvalue().splitlines()) == lines
    assert output.getvalue().count(b"req_1") == lines
