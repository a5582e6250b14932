"""Closed sets of words: fields of values, labels of metrics, parts of the API; never extended at run time."""

from __future__ import annotations

from enum import StrEnum


class Word(StrEnum):
    """One of a closed set of words; hashes as the text it equals, for these are looked up several times a request."""

    __hash__ = str.__hash__


class Operation(Word):
    """What a caller asks for; also the scope a key may hold."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    MODELS = "models"
    FILES = "files"
    FINE_TUNING = "fine_tuning"


class AccountKind(Word):
    """Who a limit or a budget belongs to, narrowest first."""

    KEY = "key"
    USER = "user"
    TEAM = "team"
    TENANT = "tenant"


class BreakerPolicy(Word):
    """What an account's cost circuit breaker does when it is open: refuse, take the cheaper variant, or only tell."""

    BLOCK = "block"
    DEGRADE = "degrade"
    ALERT = "alert"


class Outcome(Word):
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


class CacheStatus(Word):
    """The value of the `x-cache` response header."""

    EXACT = "exact"
    SEMANTIC = "semantic"
    COALESCED = "coalesced"
    MISS = "miss"
    BYPASS = "bypass"
