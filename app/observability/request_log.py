"""The line that every request leaves, written the short way: typed fields, one encoder, one write.

structlog's way costs four times as much (`docs/performance.md`). Nothing of it is missing here: the fields are ids,
configured names and numbers, never a caller's words, so there is nothing to blank.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import BinaryIO, Literal

import msgspec
import structlog

from app.observability.correlation import current_trace_id
from app.observability.logging import Lines
from app.types import CacheStatus, LedgerEntry, Outcome

RequestLog = Callable[[LedgerEntry], None]


class RequestLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What is said of a request, in this order."""

    timestamp: datetime
    level: str
    event: str
    request_id: str
    tenant: str
    route: str
    variant: str
    model: str
    outcome: Outcome
    status: int
    cache: CacheStatus
    prompt_tokens: int
    completion_tokens: int
    cost_microusd: int
    latency_ms: int
    trace_id: str | None = None


def request_log(
    log_format: Literal["json", "console"],
    log_level: Literal["debug", "info", "warning", "error"],
    *,
    output: BinaryIO | None = None,
    trace_id: Callable[[], str | None] = current_trace_id,
) -> RequestLog:
    """What writes a request's line as `logging.configure` would, given the same."""
    if log_format != "json" or log_level not in ("debug", "info"):
        return by_structlog
    write, encode = Lines(output or sys.stdout.buffer).write, msgspec.json.Encoder().encode

    def told(entry: LedgerEntry) -> None:
        write(encode(_line(entry, trace_id())) + b"\n")

    return told


def by_structlog(entry: LedgerEntry) -> None:
    """The same line in whatever form and from whatever level structlog is told."""
    fields = msgspec.structs.asdict(_line(entry, None))
    for added in ("timestamp", "level", "trace_id"):
        del fields[added]
    structlog.get_logger().info(**fields)


def _line(entry: LedgerEntry, trace_id: str | None) -> RequestLine:
    return RequestLine(
        datetime.now(UTC),
        "info",
        "request",
        entry.request_id,
        entry.tenant_id,
        entry.route,
        entry.variant,
        entry.model,
        entry.outcome,
        entry.status,
        entry.cache,
        entry.prompt_tokens,
        entry.completion_tokens,
        entry.cost_microusd,
        entry.latency_ms,
        trace_id,
    )
