"""The values that travel between the stages of a request: frozen, without behaviour that does I/O.

Units are in the names. Money is always whole micro-dollars (1 USD = 1_000_000), tokens are whole numbers,
wall-clock instants are seconds since the Unix epoch. Nothing here imports another module of the package.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec


class Operation(StrEnum):
    """What a caller asks for; also the scope a key may hold."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    MODELS = "models"
    FILES = "files"
    FINE_TUNING = "fine_tuning"


class AccountKind(StrEnum):
    """Who a limit or a budget belongs to, narrowest first."""

    KEY = "key"
    USER = "user"
    TEAM = "team"
    TENANT = "tenant"


class BreakerPolicy(StrEnum):
    """What an account's cost circuit breaker does when it is open: refuse, take the cheaper variant, or only tell."""

    BLOCK = "block"
    DEGRADE = "degrade"
    ALERT = "alert"


class Outcome(StrEnum):
    """How a request ended: a field of the ledger entry and a metric label, never extended at run time."""

    OK = "ok"
    CACHE_EXACT = "cache_exact"
    CACHE_SEMANTIC = "cache_semantic"
    BUDGET_STOPPED = "budget_stopped"
    CLIENT_GONE = "client_gone"
    UPSTREAM_REFUSED = "upstream_refused"
    UPSTREAM_FAILED = "upstream_failed"
    UPSTREAM_BROKE = "upstream_broke"
    FAILED = "failed"
    LOST = "lost"


class CacheStatus(StrEnum):
    """The value of the `x-cache` response header."""

    EXACT = "exact"
    SEMANTIC = "semantic"
    COALESCED = "coalesced"
    MISS = "miss"
    BYPASS = "bypass"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one account may use; `None` means no limit of that kind.

    A burst is what may come at once (a whole minute's worth unless said). The breaker opens when a budget is spent, or
    when a minute's spend passes `spend_per_minute_microusd` or `spend_surge_percent` of the last hour's usual minute.
    """

    requests_per_minute: int | None = None
    requests_burst: int | None = None
    tokens_per_minute: int | None = None
    tokens_burst: int | None = None
    tokens_per_day: int | None = None
    concurrent_requests: int | None = None
    budget_day_microusd: int | None = None
    budget_week_microusd: int | None = None
    budget_month_microusd: int | None = None
    budget_total_microusd: int | None = None
    spend_per_minute_microusd: int | None = None
    spend_surge_percent: int | None = None
    breaker: BreakerPolicy | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """One holder of limits that a request is charged to; with `route`, for its calls of that route only."""

    kind: AccountKind
    id: str
    limits: Limits
    route: str | None = None


@dataclass(frozen=True, slots=True)
class LimitRule:
    """Limits of a user, or of anybody for one route; `subject=None` is each of that kind, on its own.

    A user's subject is its keyed hash, never its name.
    """

    kind: AccountKind
    subject: str | None
    route: str | None
    limits: Limits


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling, proved: tenant, team, key, what it may do, and every account it is charged to.

    `rules` are the further limits that may concern its calls, by user and by route.
    """

    tenant_id: str
    team_id: str | None
    key_id: str
    operations: frozenset[Operation]
    routes: frozenset[str] | None
    accounts: tuple[Account, ...]
    rules: tuple[LimitRule, ...] = ()
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)  # own keys, by provider


@dataclass(frozen=True, slots=True)
class Price:
    """Micro-dollars per million tokens (so 0.15 USD per million input tokens is 150_000).

    Cached input and reasoning cost what other input and output cost unless said; a tier holds from so many prompt
    tokens on, for the whole call.
    """

    input_microusd_per_mtok: int
    output_microusd_per_mtok: int
    cached_microusd_per_mtok: int | None = None
    reasoning_microusd_per_mtok: int | None = None
    tiers: tuple[PriceTier, ...] = ()


@dataclass(frozen=True, slots=True)
class PriceTier:
    """The price of calls with at least so many prompt tokens."""

    from_prompt_tokens: int
    price: Price


@dataclass(frozen=True, slots=True)
class ProviderTarget:
    """A model of a configured OpenAI-compatible provider."""

    provider: str
    model: str


@dataclass(frozen=True, slots=True)
class AdapterTarget:
    """An adapter of the *calling* tenant on a vLLM pool, named by alias; `adapter=None` is the pool's base model."""

    pool: str
    adapter: str | None = None
    alias: str = "champion"


@dataclass(frozen=True, slots=True)
class EmbeddedTarget:
    """The sentence-embedding model inside the gateway (all-MiniLM-L6-v2)."""

    model: str = "minilm"


TargetSpec = ProviderTarget | AdapterTarget | EmbeddedTarget


@dataclass(frozen=True, slots=True)
class Variant:
    """One arm of a route; weight 0 or `enabled=False` (the kill switch) takes no new traffic."""

    name: str
    weight: int
    target: TargetSpec
    fallback: TargetSpec | None = None
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """What a route keeps; off unless asked for."""

    exact: bool = False
    semantic: bool = False
    threshold: float = 0.84
    ttl_seconds: int = 3600
    verify_share: float = 0.01
    false_hit_budget: float = 0.001


@dataclass(frozen=True, slots=True)
class Route:
    """A public model name; `tenant_id=None` is shared by all tenants (its adapter still belongs to the caller)."""

    name: str
    tenant_id: str | None
    variants: tuple[Variant, ...]
    cache: CachePolicy = CachePolicy()
    enabled: bool = True
    created_at: int = 0
    degrade_to: str | None = None  # the cheaper variant, for callers whose cost breaker is open


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """An immutable adapter: `id` is `tenant--name@sha12`, `path` is content-addressed and readable by every replica.

    `reference` is what it answered where it was made: prompts, each with its likeliest next tokens and their log
    probabilities.
    """

    id: str
    tenant_id: str
    name: str
    sha256: str
    path: str
    base_model: str
    rank: int
    reference: tuple[tuple[str, tuple[tuple[str, float], ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class ColdStart:
    """A tenant's rule for calls whose adapter is not loaded: wait (None: the pool's load time), then perhaps the last.

    `previous` allows the version that the alias meant before to answer after the wait; otherwise the call gets 503.
    """

    wait_ms: int | None = None
    previous: bool = False


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


@dataclass(frozen=True, slots=True)
class Choice:
    """A routed call: the variant taken and its targets in the order in which they are tried (first byte decides).

    `cheaper` is where the call goes instead when a cost breaker under the policy `degrade` is open.
    """

    route: Route
    variant: str
    targets: tuple[Target, ...]
    cheaper: Choice | None = None


@dataclass(frozen=True, slots=True)
class Request:
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


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the upstream counted them; `estimated` when the upstream did not say."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    estimated: bool = False
    reasoning_tokens: int = 0  # part of the completion tokens

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address to send one call to, chosen by placement; `model` is the name that upstream knows."""

    upstream: str
    base_url: str
    model: str
    headers: Mapping[str, str]
    replica: str | None = None
    cache_salt: str | None = None
    connect_timeout_seconds: float = 2.0
    first_byte_timeout_seconds: float = 120.0
    idle_timeout_seconds: float = 60.0
    total_timeout_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """A stored complete answer: the JSON body of a non-streaming reply and what it once cost."""

    body: bytes
    status: CacheStatus
    stored_at: float


@dataclass(slots=True)
class Reply:
    """What goes back to the caller: a head that is final, and a body that may still be running.

    `body` yields bytes blocks; for a stream each block ends on an event border.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: AsyncIterator[bytes]
    stream: bool


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One append-only line of the ledger: who used what, how much of it, at what cost, and how it ended."""

    request_id: str
    tenant_id: str
    team_id: str | None
    key_id: str
    user_hash: str | None
    operation: Operation
    route: str
    variant: str
    upstream: str
    model: str
    adapter_version: str | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    estimated: bool
    cost_microusd: int
    saved_microusd: int
    outcome: Outcome
    status: int
    started_at: float
    latency_ms: int
    first_byte_ms: int | None
    cache: CacheStatus = CacheStatus.BYPASS
    reasoning_tokens: int = 0
    byok_microusd: int = 0  # what the caller's own provider key was used for: recorded, never charged here
    adjustment: bool = False  # corrects an earlier `lost` entry of the same request: figures are differences


@dataclass(frozen=True, slots=True)
class RateLimitState:
    """What the `x-ratelimit-*` headers say of the tightest account; `None` where nothing is limited, resets in ms."""

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_ms: int | None = None
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_ms: int | None = None
    degraded: bool = False  # a cost breaker has sent the call to the cheaper variant


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A stored key as the policy snapshot holds it; the secret itself is nowhere, only its SHA-256."""

    principal: Principal
    expires_at: float | None = None
    revoked: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Provider:
    """An OpenAI-compatible service from the configuration; the key is sent upstream and never printed."""

    name: str
    base_url: str
    api_key: str | None = field(default=None, repr=False)
    connect_timeout_seconds: float = 2.0
    first_byte_timeout_seconds: float = 120.0
    idle_timeout_seconds: float = 60.0
    total_timeout_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Pool:
    """vLLM replicas that serve one base model; sizes are vLLM's own flags.

    Pools of one `family` serve the same base model with different largest ranks, for a slot costs the largest rank.
    """

    name: str
    replicas: tuple[str, ...]
    base_model: str
    max_loras: int = 1
    max_cpu_loras: int = 1
    max_lora_rank: int | None = None
    family: str | None = None
    keep_warm: frozenset[str] = frozenset()
    check_effect: bool = True
    adapters_folder: str | None = None
    resolver: bool = False
    api_key: str | None = field(default=None, repr=False)
    connect_timeout_seconds: float = 2.0
    first_byte_timeout_seconds: float = 120.0
    idle_timeout_seconds: float = 60.0
    total_timeout_seconds: float = 600.0
    load_timeout_seconds: float = 30.0

    def path_of(self, version: AdapterVersion) -> str:
        """Where the pool's servers find the version's files."""
        return version.path if self.adapters_folder is None else f"{self.adapters_folder}/{version.id}"

    def can_serve(self, version: AdapterVersion) -> bool:
        """Whether an adapter of this rank fits into the pool's slots; unknown slots are believed to fit."""
        return self.max_lora_rank is None or version.rank <= self.max_lora_rank


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """A server as one gateway process sees it; `gpu` and `host` are least recently used first."""

    url: str
    healthy: bool
    in_flight: int
    adapters_in_flight: int
    restarts: int
    has_plugin: bool
    registered: list[str]
    gpu: list[str]
    host: list[str]
    refused: dict[str, str]


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """A pool as one gateway process sees it."""

    name: str
    base_model: str
    replicas: list[ReplicaStatus]
