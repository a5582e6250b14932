"""OpenAI's rate-limit headers, exactly: counts as they are, resets as Go durations (`12ms`, `1s`, `6m0s`).

Beside them what a budget near its end has done to the call: degraded it to a cheaper variant, or shortened its answer.
"""

from __future__ import annotations

from app.types import RateLimitState


def ratelimit_headers(state: RateLimitState) -> list[tuple[bytes, bytes]]:
    """The `x-ratelimit-*` headers of what is limited; none for what is not."""
    headers: list[tuple[bytes, bytes]] = [(b"x-tunegate-degraded", b"budget")] if state.degraded else []
    if state.max_output_tokens is not None:
        headers.append((b"x-tunegate-max-tokens", b"%d" % state.max_output_tokens))
    if state.limit_requests is not None:
        headers += [
            (b"x-ratelimit-limit-requests", b"%d" % state.limit_requests),
            (b"x-ratelimit-remaining-requests", b"%d" % (state.remaining_requests or 0)),
            (b"x-ratelimit-reset-requests", duration(state.reset_requests_ms or 0)),
        ]
    if state.limit_tokens is not None:
        headers += [
            (b"x-ratelimit-limit-tokens", b"%d" % state.limit_tokens),
            (b"x-ratelimit-remaining-tokens", b"%d" % (state.remaining_tokens or 0)),
            (b"x-ratelimit-reset-tokens", duration(state.reset_tokens_ms or 0)),
        ]
    return headers


def retry_headers(wait_ms: int) -> list[tuple[bytes, bytes]]:
    """When to try again: whole seconds rounded up, and milliseconds, both at least one."""
    wait = max(1, wait_ms)
    return [(b"retry-after", b"%d" % -(-wait // 1000)), (b"retry-after-ms", b"%d" % wait)]


def duration(ms: int) -> bytes:
    """Milliseconds as Go's time.Duration prints them: `0s`, `12ms`, `1.5s`, `6m0s`, `1h0m0s`."""
    if ms == 0:
        return b"0s"
    if ms < 1000:
        return b"%dms" % ms
    minutes, rest = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    text = f"{hours}h{minutes}m{seconds}s" if hours else f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
    return text.encode()
