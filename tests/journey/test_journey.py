"""The product as its users meet it: the unmodified `openai` SDK against real processes."""

from __future__ import annotations

import base64
import struct
import time
from typing import Any

import httpx2
import openai
import pytest

from tests.journey.conftest import TENANTS, World
from tests.support.gateway import PRICE

QUESTION = "How do I reset my password?"
PARAPHRASE = "How can I reset my password?"


def ask(client: openai.OpenAI, text: str, model: str = "support", **fields: Any) -> Any:
    """The raw response of one question."""
    return client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": text}], temperature=0, max_tokens=60, **fields
    )


def test_three_tenants_one_question_three_answers(world: World) -> None:
    """One shared model name answers each tenant through its own adapter."""
    answers = {}
    for like in TENANTS:
        client = world.gateway.openai(world.gateway.key(world.tenant(like)))
        answers[like] = ask(client, QUESTION).parse().choices[0].message.content
    assert len(set(answers.values())) == 3
    for like, text in answers.items():
        assert like.capitalize() in text


def test_cache_is_exact_then_semantic_and_never_crosses_a_tenant(world: World) -> None:
    """The repeat is exact, the paraphrase semantic, the same words of another tenant a miss."""
    client = world.gateway.openai(world.gateway.key(world.tenant("bloom")))
    first = ask(client, QUESTION)
    assert first.headers["x-cache"] == "miss"
    repeat = ask(client, QUESTION)
    assert repeat.headers["x-cache"] == "exact"
    assert repeat.parse().choices[0].message.content == first.parse().choices[0].message.content
    assert ask(client, PARAPHRASE).headers["x-cache"] == "semantic"
    assert ask(client, "How do I not reset my password?").headers["x-cache"] == "miss"
    other = world.gateway.openai(world.gateway.key(world.tenant("bloom")))
    assert ask(other, QUESTION).headers["x-cache"] == "miss"
    assert ask(client, QUESTION, model="plain").headers["x-cache"] == "bypass"


def test_cached_answers_come_as_streams_to_streaming_calls(world: World) -> None:
    """A streaming repeat of an answer is a stream of the same words, with usage when asked for."""
    client = world.gateway.openai(world.gateway.key(world.tenant("corvid")))
    whole = ask(client, QUESTION).parse().choices[0].message.content
    with client.chat.completions.with_streaming_response.create(
        model="support",
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=60,
        stream=True,
        stream_options={"include_usage": True},
    ) as raw:
        assert raw.headers["x-cache"] == "exact"
        chunks = list(raw.parse())
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    assert chunks[-1].usage is not None


def test_a_streamed_answer_is_kept_for_later_calls(world: World) -> None:
    """What was relayed as a stream answers the next whole call from the cache."""
    client = world.gateway.openai(world.gateway.key(world.tenant("acme")))
    chunks = list(
        client.chat.completions.create(
            model="support",
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            max_tokens=60,
            stream=True,
        )
    )
    assert all(chunk.usage is None for chunk in chunks)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    again = ask(client, QUESTION)
    assert again.headers["x-cache"] == "exact"
    assert again.parse().choices[0].message.content == text


def test_the_sixty_first_request_of_a_minute_is_refused(world: World) -> None:
    """A 60/min key gets sixty answers and then 429 with OpenAI's headers."""
    key = world.gateway.key(world.tenant(), limits={"requests_per_minute": 60})
    client = world.gateway.openai(key)
    ask(client, QUESTION)
    started = time.monotonic()
    answered = 1
    with pytest.raises(openai.RateLimitError) as caught:
        while answered < 75:
            assert ask(client, QUESTION).headers["x-ratelimit-limit-requests"] == "60"
            answered += 1
    refilled = time.monotonic() - started
    assert 60 <= answered <= 60 + refilled + 1
    headers = caught.value.response.headers
    assert caught.value.code == "rate_limit_exceeded"
    assert headers["x-ratelimit-limit-requests"] == "60"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"].endswith("s")
    assert int(headers["retry-after"]) >= 1
    assert 0 < int(headers["retry-after-ms"]) <= 1000


def test_a_spent_budget_is_insufficient_quota_and_not_retried(world: World) -> None:
    """When the day's money is gone the SDK is told not to try again."""
    client = world.gateway.openai(world.gateway.key(world.tenant(), limits={"budget_day_microusd": 400}))
    with pytest.raises(openai.RateLimitError) as caught:
        for number in range(200):
            ask(client, f"{QUESTION} {number}", model="plain")
    assert caught.value.code == "insufficient_quota"
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_a_revoked_key_is_refused_within_a_second(world: World) -> None:
    """Revocation is felt at once."""
    tenant = world.tenant()
    made = world.gateway.call("POST", f"/tenants/{tenant}/keys", {"name": "short"})
    client = world.gateway.openai(made["secret"])
    client.models.list()
    world.gateway.call("POST", f"/tenants/{tenant}/keys/{made['id']}/revoke")
    deadline = time.monotonic() + 1
    with pytest.raises(openai.AuthenticationError):
        while time.monotonic() < deadline:
            client.models.list()
            time.sleep(0.02)


def test_usage_adds_up_to_the_micro_dollar(world: World) -> None:
    """What the ledger charges is what the answers' own usage costs."""
    tenant = world.tenant("bloom")
    client = world.gateway.openai(world.gateway.key(tenant))
    expected = 0.0
    prompt = completion = 0
    for number in range(7):
        usage = ask(client, f"Where is order {number}?", model="plain").parse().usage
        cost = (
            usage.prompt_tokens * PRICE["input_usd_per_mtok"] + usage.completion_tokens * PRICE["output_usd_per_mtok"]
        )
        expected += -(-cost // 1)
        prompt += usage.prompt_tokens
        completion += usage.completion_tokens
    rows = world.gateway.call("GET", f"/usage?tenant={tenant}&group_by=tenant")["data"]
    assert len(rows) == 1
    assert rows[0]["requests"] == 7
    assert rows[0]["prompt_tokens"] == prompt
    assert rows[0]["completion_tokens"] == completion
    assert rows[0]["cost_microusd"] == expected


def test_a_client_that_leaves_is_charged_for_what_was_made(world: World) -> None:
    """Breaking off a stream settles it as `client_gone` with the tokens that were relayed."""
    tenant = world.tenant("corvid")
    key = world.gateway.key(tenant, limits={"concurrent_requests": 1})
    body = {
        "model": "plain",
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": True,
        "max_tokens": 400,
        "ignore_eos": True,
    }
    headers = {"authorization": f"Bearer {key}"}
    with httpx2.stream("POST", f"{world.gateway.url}/v1/chat/completions", json=body, headers=headers) as answer:
        lines = answer.iter_lines()
        for _ in range(8):
            next(lines)
    for _ in range(100):
        rows = world.gateway.call("GET", f"/usage?tenant={tenant}")["data"]
        if rows and rows[0]["requests"]:
            break
        time.sleep(0.05)
    assert rows[0]["prompt_tokens"] > 0
    assert 0 < rows[0]["completion_tokens"] < 400
    ask(world.gateway.openai(key), QUESTION, model="plain")


def test_embeddings_in_both_encodings(world: World) -> None:
    """The SDK's default (base64) and plain floats give the same unit vectors."""
    key = world.gateway.key(world.tenant())
    client = world.gateway.openai(key)
    by_sdk = client.embeddings.create(model="minilm", input=["turn it on", "turn it off"])
    assert len(by_sdk.data) == 2
    assert abs(sum(x * x for x in by_sdk.data[0].embedding) - 1) < 1e-3
    body = {"model": "minilm", "input": "turn it on", "encoding_format": "base64"}
    raw = httpx2.post(f"{world.gateway.url}/v1/embeddings", json=body, headers={"authorization": f"Bearer {key}"})
    packed = base64.b64decode(raw.json()["data"][0]["embedding"])
    assert struct.unpack(f"<{len(packed) // 4}f", packed) == pytest.approx(by_sdk.data[0].embedding, abs=1e-3)


def test_completions_and_models(world: World) -> None:
    """The older endpoint answers, and the listing shows what the key may name."""
    client = world.gateway.openai(world.gateway.key(world.tenant(), routes=["plain", "support"]))
    text = client.completions.create(model="plain", prompt="Hello", max_tokens=8, temperature=0).choices[0].text
    assert text
    assert {model.id for model in client.models.list()} == {"plain", "support"}
    assert client.models.retrieve("plain").id == "plain"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("minilm")
    with pytest.raises(openai.PermissionDeniedError):
        client.embeddings.create(model="minilm", input="x")
