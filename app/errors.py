"""Every error a caller can meet. Each knows its HTTP status, OpenAI type and code; one function turns it into JSON.

GatewayError
├── InvalidRequest          400  invalid_request_error
│   ├── BodyTooLarge        413  request_too_large
│   ├── MethodNotAllowed    405
│   ├── OutOfRange          416  range_not_satisfiable
│   └── Damaged             422  digest_mismatch
├── Unauthenticated         401  invalid_api_key
├── Forbidden               403  permission_denied
├── NotFound                404  model_not_found | not_found
├── Conflict                409  conflict
├── RateLimited             429  rate_limit_exceeded
├── QuotaExhausted          429  insufficient_quota, never retried
├── UpstreamRefused         the upstream's own 4xx, passed on
├── UpstreamFailed          502  upstream_error
│   └── UpstreamTimedOut    504  upstream_timeout
├── Unavailable             503  server_is_overloaded, with Retry-After
└── Internal                500  server_error

Messages name the field and say what was expected; they never hold prompt text or secrets.
"""

from __future__ import annotations

import msgspec


class GatewayError(Exception):
    """The root: carries what the caller is told, nothing else."""

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else type(self).code
        self.headers = headers

    def body(self) -> bytes:
        """OpenAI's error envelope as JSON bytes."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})


class InvalidRequest(GatewayError):
    """The request cannot be understood; `param` names the field."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class BodyTooLarge(InvalidRequest):
    """The body is over the configured limit."""

    status = 413
    code = "request_too_large"


class MethodNotAllowed(InvalidRequest):
    """The path exists, the method does not."""

    status = 405
    code = "method_not_allowed"


class OutOfRange(InvalidRequest):
    """A part of a file was asked for that lies behind its end."""

    status = 416
    code = "range_not_satisfiable"


class Damaged(InvalidRequest):
    """The bytes that arrived are not those that were announced; sending them again may help."""

    status = 422
    code = "digest_mismatch"


class Unauthenticated(GatewayError):
    """Proof that the caller is nobody we know: missing, malformed, unknown, expired or revoked key."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Forbidden(GatewayError):
    """A known caller asks for what its key may not do."""

    status = 403
    type = "permission_error"
    code = "permission_denied"


class NotFound(GatewayError):
    """No such thing for this caller; the same answer whether it exists for another tenant or not."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class Conflict(GatewayError):
    """The change collides with what is there."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"


class RateLimited(GatewayError):
    """A limit per minute, per day or of concurrent requests is reached; comes with Retry-After."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class QuotaExhausted(GatewayError):
    """A money budget is spent; retrying cannot help, so clients are told not to."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"

    def __init__(self, message: str, *, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message, headers=(*headers, (b"x-should-retry", b"false")))


class UpstreamRefused(GatewayError):
    """The upstream answered 4xx: its own status and body are passed on."""

    type = "invalid_request_error"

    def __init__(self, status: int, payload: bytes, *, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(f"the upstream refused the request with status {status}", headers=headers)
        self.status = status
        self.payload = payload

    def body(self) -> bytes:
        """The upstream's envelope where it sent one, ours otherwise."""
        try:
            sent = msgspec.json.decode(self.payload)
        except msgspec.DecodeError:
            return super().body()
        return self.payload if isinstance(sent, dict) and isinstance(sent.get("error"), dict) else super().body()


class UpstreamFailed(GatewayError):
    """The upstream could not be reached, answered 5xx, or broke off; before the first byte another may be tried."""

    status = 502
    type = "server_error"
    code = "upstream_error"
    retry_after_seconds: float | None = None  # what the upstream asked for, when it did
    model_missing = False  # the replica does not know the adapter (any more)
    disconnected = False  # it hung up without a byte of an answer, as a stale kept-alive connection does
    connection_lost = False  # it could not be reached, or hung up: the next server of its pool may answer


class UpstreamTimedOut(UpstreamFailed):
    """The upstream did not answer in time."""

    status = 504
    code = "upstream_timeout"


class Unavailable(GatewayError):
    """We cannot decide or serve right now (a store is down, a pool has no replica); comes with Retry-After."""

    status = 503
    type = "service_unavailable_error"
    code = "server_is_overloaded"

    def __init__(self, message: str, *, retry_after_seconds: int = 1) -> None:
        seconds = str(retry_after_seconds).encode()
        super().__init__(
            message,
            headers=((b"retry-after", seconds), (b"retry-after-ms", str(retry_after_seconds * 1000).encode())),
        )


class Internal(GatewayError):
    """A defect of ours; the message says nothing of the inside, the log has the request id."""
