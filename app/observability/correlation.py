"""Which trace the running code belongs to: what ties a log line and an exemplar to a span."""

from __future__ import annotations

from opentelemetry.trace import format_trace_id, get_current_span


def current_trace_id() -> str | None:
    """The id of the sampled trace of this request, 32 hexadecimal digits; None where nothing is traced."""
    context = get_current_span().get_span_context()
    return format_trace_id(context.trace_id) if context.trace_flags.sampled else None
