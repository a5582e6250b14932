"""Span attributes by OpenTelemetry's semantic conventions (HTTP, GenAI) and our own `tunegate.*`. Pure; no content."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec
from starlette.types import Message, Scope

from app.types import Call, Endpoint, LedgerEntry, Operation, Outcome

Attributes = dict[str, str | int | float | bool]

OPERATIONS = {
    Operation.CHAT: "chat",
    Operation.COMPLETIONS: "text_completion",
    Operation.EMBEDDINGS: "embeddings",
    Operation.MODELS: "models",
}
SAMPLING = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "seed")
BROKEN = frozenset({Outcome.UPSTREAM_BROKE, Outcome.UPSTREAM_FAILED, Outcome.UPSTREAM_REFUSED})


def asked(scope: Scope, method: str, route: str) -> Attributes:
    """Of a request as it comes; not where it comes from."""
    return {
        "http.request.method": method,
        "http.route": route,
        "url.path": route,
        "url.scheme": str(scope.get("scheme", "http")),
        "network.protocol.version": str(scope.get("http_version", "1.1")),
    }


def status(message: Message) -> Attributes:
    """Of an answer's head."""
    code = int(message["status"])
    noted: Attributes = {"http.response.status_code": code}
    for name, value in message.get("headers", ()):
        if name == b"x-request-id":
            noted["tunegate.request.id"] = value.decode("latin-1")
    return noted | ({"error.type": str(code)} if code >= 500 else {})


def served(entry: LedgerEntry) -> Attributes:
    """Of a request that is recorded."""
    noted: Attributes = {
        "tunegate.tenant.id": entry.tenant_id,
        "tunegate.route": entry.route,
        "tunegate.variant": entry.variant,
        "tunegate.outcome": entry.outcome.value,
        "tunegate.cache": entry.cache.value,
        "tunegate.cost_microusd": entry.cost_microusd,
        "tunegate.saved_microusd": entry.saved_microusd,
    }
    return noted if entry.adapter_version is None else {**noted, "tunegate.adapter.version": entry.adapter_version}


def sent(endpoint: Endpoint, call: Call) -> Attributes:
    """Of a call as it goes upstream."""
    address = urlsplit(endpoint.base_url)
    noted: Attributes = {
        "gen_ai.operation.name": OPERATIONS[call.operation],
        "gen_ai.provider.name": "openai" if endpoint.replica is None else "vllm",
        "gen_ai.request.model": endpoint.model,
        "server.address": address.hostname or "",
        "server.port": address.port or (443 if address.scheme == "https" else 80),
        "tunegate.upstream": endpoint.upstream,
    }
    if call.stream:
        noted["gen_ai.request.stream"] = True
    if call.max_tokens is not None:
        noted["gen_ai.request.max_tokens"] = call.max_tokens
    if call.choices != 1:
        noted["gen_ai.request.choice.count"] = call.choices
    for name in SAMPLING:
        number = _number(call.fields.get(name))
        if number is not None:
            noted[f"gen_ai.request.{name}"] = number
    return noted


def used(entry: LedgerEntry) -> Attributes:
    """Of what a call used; an estimate says so."""
    noted: Attributes = {
        "gen_ai.usage.input_tokens": entry.prompt_tokens,
        "gen_ai.usage.output_tokens": entry.completion_tokens,
        "tunegate.usage.estimated": entry.estimated,
    }
    if entry.cached_tokens:
        noted["gen_ai.usage.cache_read.input_tokens"] = entry.cached_tokens
    return noted | ({"error.type": entry.outcome.value} if entry.outcome in BROKEN else {})


def _number(raw: Any) -> int | float | None:
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=int | float)
    except msgspec.DecodeError:
        return None
