"""What an upstream's status means: the caller's fault is passed on, ours is hidden and may be tried elsewhere."""

from __future__ import annotations

import pytest

from app.backends.refusal import as_error
from app.errors import UpstreamFailed, UpstreamRefused
from tests.backends.calls import endpoint

PROVIDER = endpoint("http://up")
REPLICA = endpoint("http://up", replica="http://up")
BODY = b'{"error":{"message":"too long","type":"invalid_request_error","code":"context_length_exceeded"}}'


@pytest.mark.parametrize("status", [400, 405, 410, 413, 415, 422, 451])
def test_the_callers_own_fault_is_passed_on(status: int) -> None:
    """Status and envelope are the upstream's."""
    error = as_error(PROVIDER, status, BODY, "")
    assert isinstance(error, UpstreamRefused)
    assert (error.status, error.body()) == (status, BODY)


def test_a_refusal_that_is_no_envelope_gets_ours() -> None:
    """HTML from a proxy between reaches nobody."""
    error = as_error(PROVIDER, 400, b"<html>secret.internal</html>", "")
    assert b"secret" not in error.body()
    assert b'"error"' in error.body()


@pytest.mark.parametrize("status", [401, 402, 403, 407])
def test_a_refusal_of_our_credentials_is_a_failure_without_its_text(status: int) -> None:
    """The caller's key is fine; the upstream's words may hold ours."""
    error = as_error(PROVIDER, status, b'{"error":{"message":"bad key sk-live-123"}}', "")
    assert isinstance(error, UpstreamFailed)
    assert b"sk-live" not in error.body()
    assert error.status == 502


@pytest.mark.parametrize("status", [401, 402, 403, 429])
def test_a_refusal_of_the_callers_own_key_is_the_callers(status: int) -> None:
    """Its status and words, and when to come again; no other target is paid for instead."""
    error = as_error(endpoint("http://up", is_callers_own=True), status, BODY, "7")
    assert isinstance(error, UpstreamRefused)
    assert (error.status, error.body(), error.headers) == (status, BODY, ((b"retry-after", b"7"),))


@pytest.mark.parametrize("status", [100, 204, 301, 308, 408, 409, 425, 429, 500, 502, 503, 504, 599, 999])
def test_what_may_pass_is_a_failure(status: int) -> None:
    """Another target may answer."""
    assert isinstance(as_error(PROVIDER, status, b"", ""), UpstreamFailed)


def test_a_replica_that_lost_the_adapter_is_told_apart() -> None:
    """404 from our own server means that the name must be loaded again; a provider's 404 is the caller's."""
    lost = as_error(REPLICA, 404, b"", "")
    assert isinstance(lost, UpstreamFailed)
    assert lost.model_missing
    assert isinstance(as_error(PROVIDER, 404, BODY, ""), UpstreamRefused)


@pytest.mark.parametrize(
    ("said", "seconds", "header"),
    [
        ("7", 7.0, b"7"),
        ("0.2", 0.2, b"1"),
        *((said, None, None) for said in ("", "-1", "nan", "inf", "99999", "Wed, 21 Oct 2026 07:28:00 GMT")),
    ],
)
def test_retry_after_is_kept_when_it_is_sane(said: str, seconds: float | None, header: bytes | None) -> None:
    """A wait of up to two minutes is passed on, in whole seconds; anything else is as if it were not said."""
    error = as_error(PROVIDER, 429, b"", said)
    assert isinstance(error, UpstreamFailed)
    assert error.retry_after_seconds == seconds
    assert dict(error.headers).get(b"retry-after") == header
