"""Servers that answer: as configured, as addressed, as last seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.types.adapters import AdapterVersion


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
class Endpoint:
    """An address to send one call to, chosen by placement; `model` is the name that upstream knows."""

    upstream: str
    base_url: str
    model: str
    headers: Mapping[str, str]
    replica: str | None = None
    cache_salt: str | None = None
    is_callers_own: bool = False  # the caller's own key is in `headers`: what is refused there is the caller's affair
    connect_timeout_seconds: float = 2.0
    first_byte_timeout_seconds: float = 120.0
    idle_timeout_seconds: float = 60.0
    total_timeout_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """A server as one gateway process sees it.

    `in_flight` and `adapters_in_flight` count the calls of all gateways; `held` for a slot, `loading` their adapter and
    `running` are its own. `gpu` and `host` are least recently used first.
    """

    url: str
    healthy: bool
    in_flight: int
    adapters_in_flight: int
    held: int
    loading: int
    running: int
    restarts: int
    has_plugin: bool
    registered: list[str]
    gpu: list[str]
    host: list[str]
    refused: dict[str, str]


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """A pool as one gateway process sees it; `waiting` are its calls that wait for room on any server."""

    name: str
    base_model: str
    waiting: int
    replicas: list[ReplicaStatus]
