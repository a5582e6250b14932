"""A request on its way: as it came, as it was read, where it may go, what admission said of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from app.types.adapters import AdapterVersion
from app.types.prices import Price
from app.types.routes import Route
from app.types.words import Operation


class Request(msgspec.Struct, frozen=True):
    """An HTTP request as it came: header names are lower case; `read` gives the whole body, or raises BodyTooLarge."""

    id: str
    operation: Operation
    headers: Mapping[bytes, bytes]
    read: Callable[[], Awaitable[bytes]]
    received_at: float


@dataclass(frozen=True, slots=True)
class Call:
    """The typed part of a request body. `body` is the caller's own bytes, `fields` its top level as raw JSON values."""

    operation: Operation
    route: str
    body: bytes
    fields: Mapping[str, msgspec.Raw]
    stream: bool
    include_usage: bool
    max_tokens: int | None
    choices: int
    user: str | None
    prompt_tokens_estimate: int
    cache_control: str = ""
    shortened_to: int | None = None  # tokens that each choice of the answer may have, whatever the body says


@dataclass(frozen=True, slots=True)
class Target:
    """Where a call may go: a provider's model, a pool's base model, or one adapter version on a pool."""

    upstream: str
    model: str
    price: Price
    adapter: AdapterVersion | None = None
    tenant_id: str | None = None  # whose call it is: our own servers keep tenants' prompts apart
    cold_wait_ms: int | None = None  # how long to wait for the adapter's load; None: the pool's load time
    is_pool: bool = False
    is_embedded: bool = False
    credential: str | None = field(default=None, repr=False)  # the caller's own key for this upstream

    @property
    def charged(self) -> Price:
        """What a call costs here: nothing on the caller's own key."""
        return self.price if self.credential is None else Price(0, 0)


class Choice(msgspec.Struct, frozen=True, gc=False):
    """A routed call: the variant taken and its targets in the order in which they are tried (first byte decides).

    `cheaper` is where the call goes instead when a cost breaker under the policy `degrade` is open.
    """

    route: Route
    variant: str
    targets: tuple[Target, ...]
    cheaper: Choice | None = None


class RateLimitState(msgspec.Struct, frozen=True, gc=False):
    """What the `x-ratelimit-*` headers say of the tightest account; `None` where nothing is limited, resets in ms."""

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_ms: int | None = None
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_ms: int | None = None
    degraded: bool = False  # a cost breaker has sent the call to the cheaper variant
    max_output_tokens: int | None = None  # a budget ends so near that a longer answer would pass it
