"""Where servers are: lists, names with many addresses, Kubernetes services; and outages of those who know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.placement.discovery import Discovery, DiscoveryFailed, by_dns, by_kubernetes
from tests.support.provider import fake_provider, whole


async def test_a_list_is_itself() -> None:
    """Addresses stand for themselves, each once, in their order."""
    listed = ["http://b:1", "http://a:1", "http://b:1"]
    assert await Discovery().addresses(listed) == ["http://b:1", "http://a:1"]


async def test_a_name_stands_for_all_its_addresses() -> None:
    """A headless service has one address per server; the resolver is the system's own."""
    assert "http://127.0.0.1:8123" in await by_dns("dns://localhost:8123")
    with pytest.raises(DiscoveryFailed):
        await by_dns("dns://no-such-name.invalid:8123")


async def test_an_outage_of_the_one_who_knows_takes_no_server_away() -> None:
    """The last answer stands until there is a new one."""
    answers: list[list[str] | None] = [["http://1:8", "http://2:8"], None, ["http://2:8"]]

    async def lookup(source: str) -> list[str]:
        found = answers.pop(0)
        if found is None:
            raise DiscoveryFailed(source)
        return found

    discovery = Discovery({"dns": lookup})
    assert await discovery.addresses(["dns://x:8"]) == ["http://1:8", "http://2:8"]
    assert await discovery.addresses(["dns://x:8"]) == ["http://1:8", "http://2:8"]
    assert await discovery.addresses(["dns://x:8", "http://9:8"]) == ["http://2:8", "http://9:8"]


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """A pod's service account."""
    (tmp_path / "token").write_text("pod-token\n")
    (tmp_path / "ca.crt").write_text("")
    return tmp_path


async def test_a_kubernetes_service_stands_for_its_ready_endpoints(account: Path) -> None:
    """Every ready endpoint of every slice; one that is not ready is left out; the pod's own token is sent."""
    slices = {
        "items": [
            {"endpoints": [{"addresses": ["10.0.0.2"], "conditions": {"ready": True}}]},
            {
                "endpoints": [
                    {"addresses": ["10.0.0.1"], "conditions": {}},
                    {"addresses": ["10.0.0.3"], "conditions": {"ready": False}},
                    {"addresses": ["fd00::1"], "conditions": {"ready": True}},
                ]
            },
            {"endpoints": None},
        ]
    }
    async with fake_provider(whole(json.dumps(slices).encode())) as api:
        found = await by_kubernetes("k8s://models/vllm:8001", account=account, api=api.url)
        assert found == ["http://10.0.0.1:8001", "http://10.0.0.2:8001", "http://[fd00::1]:8001"]
        asked = api.received[0]
        assert asked.path.startswith("/apis/discovery.k8s.io/v1/namespaces/models/endpointslices?")
        assert "service-name" in asked.path
        assert asked.headers["authorization"] == "bearer pod-token"


@pytest.mark.parametrize(("status", "body"), [(403, b"{}"), (200, b"[]"), (200, b"<html>"), (500, b"")])
async def test_a_kubernetes_that_does_not_answer_is_a_failure(account: Path, status: int, body: bytes) -> None:
    """No permission, no JSON, no answer: the last list stands."""
    async with fake_provider(whole(body, status)) as api:
        with pytest.raises(DiscoveryFailed):
            await by_kubernetes("k8s://models/vllm:8001", account=account, api=api.url)


async def test_outside_of_a_cluster_kubernetes_is_a_failure(tmp_path: Path) -> None:
    """No service account, no crash."""
    with pytest.raises(DiscoveryFailed):
        await by_kubernetes("k8s://models/vllm:8001", account=tmp_path / "none")
