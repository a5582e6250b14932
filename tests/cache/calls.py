"""Calls as the parser makes them, choices and answers, for the cache's tests."""

from __future__ import annotations

from typing import Any

import msgspec

from app.types import (
    AdapterTarget,
    AdapterVersion,
    CachePolicy,
    Call,
    Choice,
    Operation,
    Price,
    Principal,
    Route,
    Target,
    Variant,
)


def make_principal(tenant_id: str = "acme") -> Principal:
    """A caller of one tenant."""
    return Principal(tenant_id, None, "key", frozenset(Operation), None, ())


def make_call(turn: str = "How do I reset my password?", cache_control: str = "", **fields: Any) -> Call:
    """A chat call with a system prompt, as the parser makes it; `fields` replace or add to its body."""
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": turn}]
    body = {"model": "support", "messages": messages, "temperature": 0, **fields}
    return call_of(body, cache_control=cache_control)


def call_of(body: dict[str, Any], operation: Operation = Operation.CHAT, cache_control: str = "") -> Call:
    """A call with this body."""
    raw = msgspec.json.encode(body)
    options = body.get("stream_options") or {}
    return Call(
        operation=operation,
        route=body["model"],
        body=raw,
        fields=msgspec.json.decode(raw, type=dict[str, msgspec.Raw]),
        stream=bool(body.get("stream")),
        include_usage=bool(options.get("include_usage")),
        max_tokens=body.get("max_tokens"),
        choices=body.get("n") or 1,
        user=body.get("user"),
        prompt_tokens_estimate=9,
        cache_control=cache_control,
    )


def make_target(sha256: str = "a" * 64, **fields: Any) -> Target:
    """A target with an adapter."""
    adapter = AdapterVersion(f"acme--support@{sha256[:12]}", "acme", "support", sha256, "/adapters/x", "base", 8)
    values: dict[str, Any] = {"upstream": "main", "model": adapter.id, "price": Price(1, 1), "adapter": adapter}
    return Target(**{**values, **fields})


def make_choice(policy: CachePolicy | None = None, **fields: Any) -> Choice:
    """A routed call with both tiers on."""
    route = Route(
        "support",
        None,
        (Variant("champion", 1, AdapterTarget("main", "support")),),
        cache=policy or CachePolicy(exact=True, semantic=True),
    )
    values: dict[str, Any] = {"route": route, "variant": "champion", "targets": (make_target(),)}
    return Choice(**{**values, **fields})


def make_answer(content: str | None = "Press the button.", finish_reason: str = "stop", **message: Any) -> bytes:
    """A whole chat answer as an upstream sends it."""
    return msgspec.json.encode(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": "support",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": content, **message},
                    "logprobs": None,
                    "finish_reason": finish_reason,
                }
            ],
            "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
        }
    )


def make_stream(*pieces: str, finish_reason: str = "stop", usage: dict[str, int] | None = None) -> bytes:
    """The events of a streamed chat answer as they are relayed."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "support"}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces), {}]
    chunks = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None if delta else finish_reason}]}
        for delta in deltas
    ]
    if usage is not None:
        chunks.append({**head, "choices": [], "usage": usage})
    return b"".join(b"data: " + msgspec.json.encode(chunk) + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
