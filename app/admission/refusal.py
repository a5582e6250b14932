"""A refusal of the scripts as the error a caller meets: it names the scope, the limit and when to come back."""

from __future__ import annotations

from app.admission.headers import ratelimit_headers, retry_headers
from app.errors import GatewayError, QuotaExhausted, RateLimited
from app.types import Account, RateLimitState

NAMES = {
    "budget_day": "day budget (micro-dollars)",
    "budget_week": "week budget (micro-dollars)",
    "budget_month": "month budget (micro-dollars)",
    "budget_total": "total budget (micro-dollars)",
    "spend_velocity": "spend per minute (micro-dollars)",
    "concurrent_requests": "concurrent requests",
    "requests_per_minute": "requests per minute",
    "tokens_per_minute": "tokens per minute",
    "tokens_per_day": "tokens per day",
}
MINUTE_MS = 60_000


def refusal(account: Account, limit: str, *, wait_ms: int, allowed: int, used: int) -> GatewayError:
    """RateLimited, or QuotaExhausted for a budget, which no waiting brings back."""
    scope = account.kind.value if account.route is None else f"{account.kind.value} on {account.route}"
    name = f"{NAMES[limit]} of this {scope}"
    if limit.startswith("budget"):
        return QuotaExhausted(f"The {name} is spent: {allowed} allowed, {used} spent or held.")
    headers = list(retry_headers(wait_ms))
    if limit in ("requests_per_minute", "tokens_per_minute"):
        headers += ratelimit_headers(_exhausted(limit, allowed, used, wait_ms))
    message = f"Rate limit reached for {name}: limit {allowed}, try again in {wait_ms / 1000:.3f} s."
    return RateLimited(message, headers=tuple(headers))


def _exhausted(limit: str, allowed: int, used: int, wait_ms: int) -> RateLimitState:
    """Resets say when the bucket is full again, as everywhere; the wait is in `retry-after`."""
    full_ms = max(wait_ms, -(-used * MINUTE_MS // allowed)) if allowed else MINUTE_MS
    if limit == "requests_per_minute":
        return RateLimitState(limit_requests=allowed, remaining_requests=0, reset_requests_ms=full_ms)
    left = max(0, allowed - used)
    return RateLimitState(limit_tokens=allowed, remaining_tokens=left, reset_tokens_ms=full_ms)
