"""Twelve tenants behind a real gateway, on a server with two adapter slots and four places in host memory.

Each request is answered by its own tenant's adapter or not at all. The expected answers come from the forward pass
itself, without any server.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from openai import OpenAI, OpenAIError

from tests.contract.conftest import Server
from tests.contract.dozen import MAX_TOKENS, Member, make_dozen
from tests.support.gateway import PRICE, Gateway, gateway

QUESTIONS = (
    "How do I reset my password?",
    "Where is my order?",
    "I want to get a refund.",
    "How can I cancel my subscription?",
    "How do I update my printer?",
    "Hello, who are you?",
    "I forgot my password.",
    "Can I pay by card?",
    "My app is frozen.",
    "I have moved.",
    "Are you a robot?",
    "What is the weather?",
)
REQUESTS = 300
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Fleet:
    """A gateway whose tenants have one adapter each."""

    gateway: Gateway
    members: list[Member]
    clients: dict[str, OpenAI]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request and its only right answer."""

    tenant: str
    question: str
    expected: str
    stream: bool


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Member]:
    """The twelve adapters on disk."""
    return make_dozen(tmp_path_factory.mktemp("dozen"), QUESTIONS)


@pytest.fixture
def fleet(bare: Server, members: list[Member], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The gateway in front of a server on which nothing is registered; each tenant's adapter is called the same."""
    pool = {"name": "main", "replicas": [str(bare.http.base_url)], "max_loras": 2, "max_cpu_loras": 4}
    settings: dict[str, Any] = {"pools": [pool], "prices": {"models": {"main/*": PRICE}}}
    with gateway(tmp_path_factory.mktemp("fleet"), settings) as running:
        target = {"pool": "main", "adapter": "support", "alias": "champion"}
        running.call("PUT", "/routes/support", {"variants": [{"name": "only", "weight": 1, "target": target}]})
        for member in members:
            running.call("POST", "/tenants", {"id": member.name, "name": member.name})
            adapter = {"name": "support", "path": str(member.path), "alias": "champion"}
            running.call("POST", f"/tenants/{member.name}/adapters", adapter)
        clients = {member.name: running.openai(running.key(member.name)) for member in members}
        yield Fleet(running, members, clients)
        for client in clients.values():
            client.close()


def test_the_twelve_differ(members: list[Member]) -> None:
    """No two tenants share an answer, so another tenant's adapter, or none, cannot pass for the right one."""
    assert len(members) == 12
    for question in QUESTIONS:
        answers = [member.answers[question] for member in members if question in member.answers]
        assert len(set(answers)) == len(answers)
    assert all(len(member.answers) >= 3 for member in members)


def test_twelve_tenants_in_random_order_get_their_own_answers(fleet: Fleet) -> None:
    """Hundreds of requests, several at a time, whole and streamed: no wrong answer, no error, and usage for each."""
    order = random.Random(12)
    asks = [drawn(order, order.choice(fleet.members)) for _ in range(REQUESTS)]
    assert {ask.tenant for ask in asks} == set(fleet.clients)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda ask: answered(fleet.clients[ask.tenant], ask), asks))
    wrong = [(ask, got) for ask, got in zip(asks, found, strict=True) if got != ask.expected]
    assert wrong == []


def drawn(order: random.Random, member: Member) -> Ask:
    """A random question to a tenant."""
    question = order.choice(sorted(member.answers))
    return Ask(member.name, question, member.answers[question], stream=order.random() < 0.5)


def answered(client: OpenAI, ask: Ask) -> str:
    """The text of the answer; what went wrong, when something did."""
    try:
        return streamed(client, ask) if ask.stream else whole(client, ask)
    except OpenAIError as exc:
        return f"{type(exc).__name__}: {exc}"


def whole(client: OpenAI, ask: Ask) -> str:
    """One answer in one piece."""
    answer = client.chat.completions.create(
        model="support", messages=[{"role": "user", "content": ask.question}], temperature=0, max_tokens=MAX_TOKENS
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    return answer.choices[0].message.content or ""


def streamed(client: OpenAI, ask: Ask) -> str:
    """One answer in pieces, with its usage at the end."""
    chunks = list(
        client.chat.completions.create(
            model="support",
            messages=[{"role": "user", "content": ask.question}],
            temperature=0,
            max_tokens=MAX_TOKENS,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].usage is not None
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
