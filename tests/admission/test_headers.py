from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.admission.headers import duration, ratelimit_headers, retry_headers
from app.types import RateLimitState

GO = re.compile(r"^(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?$")


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, b"0s"), (12, b"12ms"), (999, b"999ms"), (1000, b"1s"), (1500, b"1.5s"), (60_000, b"1m0s"),
     (360_000, b"6m0s"), (61_001, b"1m1.001s"), (3_600_000, b"1h0m0s"), (86_399_999, b"23h59m59.999s")],
)  # fmt: skip
def test_durations_are_written_as_go_writes_them(ms: int, text: bytes) -> None:
    """The forms that OpenAI's clients parse."""
    assert duration(ms) == text


@settings(deadline=None)
@given(st.integers(0, 10**9))
def test_a_duration_reads_back_as_itself(ms: int) -> None:
    """No value is rounded away."""
    text = duration(ms).decode()
    if text.endswith("ms"):
        assert int(text[:-2]) == ms
        return
    match = GO.match(text)
    assert match is not None
    hours, minutes, seconds = match.groups()
    assert round((int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds or 0)) * 1000) == ms


@settings(deadline=None)
@given(st.integers(-5, 10**9))
def test_the_two_retry_headers_agree(wait_ms: int) -> None:
    """Whole seconds are never earlier than the milliseconds, and neither is zero."""
    headers = dict(retry_headers(wait_ms))
    seconds, ms = int(headers[b"retry-after"]), int(headers[b"retry-after-ms"])
    assert ms == max(1, wait_ms)
    assert ms <= seconds * 1000 < ms + 1000


def test_only_what_is_limited_has_headers() -> None:
    """No limit, no header; requests and tokens independently of each other."""
    assert ratelimit_headers(RateLimitState()) == []
    state = RateLimitState(limit_tokens=100, remaining_tokens=40, reset_tokens_ms=36_000)
    assert dict(ratelimit_headers(state)) == {
        b"x-ratelimit-limit-tokens": b"100",
        b"x-ratelimit-remaining-tokens": b"40",
        b"x-ratelimit-reset-tokens": b"36s",
    }


def test_a_shortened_answer_says_how_long_it_may_be() -> None:
    """Beside what is limited, and only then."""
    assert (b"x-tunegate-max-tokens", b"30") in ratelimit_headers(RateLimitState(max_output_tokens=30))
    assert ratelimit_headers(RateLimitState()) == []
