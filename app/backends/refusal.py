"""What an upstream's status means for the caller and for the next try.

A refusal of the caller's own request is passed on, and so is one of the caller's own key. A refusal of *us* (our key,
our quota, our adapter is gone) is a failure of the upstream: its text may name our credentials, and another target may
well answer.
"""

from __future__ import annotations

from app.errors import UpstreamFailed, UpstreamRefused
from app.types import Endpoint

LONGEST_RETRY_AFTER_SECONDS = 120.0  # the SDKs give up retrying beyond it
_OUR_FAULT = frozenset({401, 402, 403, 407})
_KEYS_FAULT = frozenset({401, 402, 403, 429})
_RETRIABLE = frozenset({408, 409, 425, 429})


def as_error(endpoint: Endpoint, status: int, payload: bytes, retry_after: str) -> UpstreamFailed | UpstreamRefused:
    """The error for an upstream's answer other than 200."""
    if status == 404 and endpoint.replica is not None:
        error = UpstreamFailed("The replica does not have this model loaded.")
        error.model_missing = True
        return error
    if endpoint.is_callers_own and status in _KEYS_FAULT:
        return UpstreamRefused(status, payload, headers=_retry_after(_seconds(retry_after)))
    if status in _OUR_FAULT:
        return UpstreamFailed("The upstream did not accept the gateway's own credentials.")
    if status in _RETRIABLE or not 400 <= status < 500:
        return _retriable(status, retry_after)
    return UpstreamRefused(status, payload)


def _retriable(status: int, retry_after: str) -> UpstreamFailed:
    seconds = _seconds(retry_after)
    error = UpstreamFailed(f"The upstream answered with status {status}.", headers=_retry_after(seconds))
    error.retry_after_seconds = seconds
    return error


def _retry_after(seconds: float | None) -> tuple[tuple[bytes, bytes], ...]:
    return () if seconds is None else ((b"retry-after", b"%d" % max(1, round(seconds))),)


def _seconds(retry_after: str) -> float | None:
    try:
        seconds = float(retry_after)
    except ValueError:
        return None
    return seconds if 0 < seconds <= LONGEST_RETRY_AFTER_SECONDS else None
