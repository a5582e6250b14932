"""Bad input over the wire: OpenAI's envelope, the right status, the field's name, and never the caller's words."""

from __future__ import annotations

import http.client
import json
from typing import Any

import httpx2
import pytest

from tests.journey.conftest import World

CANARY = "zebra-7731-canary"
MESSAGES = [{"role": "user", "content": CANARY}]


def post(world: World, key: str, body: Any, path: str = "/v1/chat/completions", **headers: str) -> httpx2.Response:
    """One raw POST."""
    sent = {"authorization": f"Bearer {key}", "content-type": "application/json", **headers}
    content = body if isinstance(body, bytes) else None
    return httpx2.post(
        f"{world.gateway.url}{path}", content=content, json=None if content else body, headers=sent, timeout=30
    )


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b'{"model": "plain", "messages": [', 400, None),
        (b"[1, 2]", 400, None),
        (b"\xff\xfe", 400, None),
        (b"[" * 100_000, 400, None),
        ({"messages": MESSAGES}, 400, "model"),
        ({"model": "plain"}, 400, "messages"),
        ({"model": "plain", "messages": []}, 400, "messages"),
        ({"model": "plain", "messages": [{"content": CANARY}]}, 400, "messages[0].role"),
        ({"model": 7, "messages": MESSAGES}, 400, "model"),
        ({"model": "plain", "messages": CANARY}, 400, "messages"),
        ({"model": "plain", "messages": MESSAGES, "n": 0}, 400, "n"),
        ({"model": "plain", "messages": MESSAGES, "n": 1000}, 400, "n"),
        ({"model": "plain", "messages": MESSAGES, "max_tokens": -1}, 400, "max_tokens"),
        ({"model": "plain", "messages": MESSAGES, "max_tokens": "many"}, 400, "max_tokens"),
        ({"model": "plain", "messages": MESSAGES, "max_completion_tokens": 10**9}, 400, "max_completion_tokens"),
        ({"model": "plain", "messages": MESSAGES, "stream": CANARY}, 400, "stream"),
        ({"model": "absent", "messages": MESSAGES}, 404, "model"),
    ],
)
def test_refusals_name_the_field(world: World, body: Any, status: int, param: str | None) -> None:
    """Each wrong body is refused with its own status and field."""
    answer = post(world, world.gateway.key(world.tenant()), body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert CANARY not in answer.text
    assert answer.headers["x-request-id"].startswith("req_")


def test_unknown_fields_are_never_refused(world: World) -> None:
    """Fields nobody knows are passed on or ignored."""
    body = {"model": "plain", "messages": MESSAGES, "max_tokens": 4, "guided_thing": {"a": [1]}, "x": None}
    assert post(world, world.gateway.key(world.tenant()), body).status_code == 200


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Basic abc", "Bearer tg-nobody", "Bearer \xe4", "tg-x"])
def test_bad_authorization_is_401(world: World, value: str) -> None:
    """Anything but a known key is 401 in OpenAI's envelope; `http.client` sends what better clients would not."""
    connection = http.client.HTTPConnection(world.gateway.url.removeprefix("http://"), timeout=30)
    body = json.dumps({"model": "plain", "messages": MESSAGES})
    connection.request("POST", "/v1/chat/completions", body, {"authorization": value})
    answer = connection.getresponse()
    assert answer.status == 401
    assert json.loads(answer.read())["error"]["code"] == "invalid_api_key"
    connection.close()


def test_a_body_over_the_limit_is_413(world: World) -> None:
    """Seventeen mebibytes are too many."""
    key = world.gateway.key(world.tenant())
    answer = post(world, key, b'{"model": "plain", "x": "' + b"a" * (17 * 1024 * 1024) + b'"}')
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"


def test_paths_and_methods(world: World) -> None:
    """Unknown paths and wrong methods answer in the envelope too."""
    assert httpx2.get(f"{world.gateway.url}/v1/nothing").json()["error"]["type"] == "invalid_request_error"
    wrong = httpx2.get(f"{world.gateway.url}/v1/chat/completions")
    assert wrong.status_code == 405
    assert wrong.json()["error"]["code"] == "method_not_allowed"


def test_a_bad_adapter_is_refused_with_the_reason(world: World, tmp_path: Any) -> None:
    """An absent folder and a file that is not safetensors are 400 and name `path`."""
    tenant = world.tenant()
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    (fake / "adapter_model.safetensors").write_bytes(b"PK\x03\x04 not a tensor in sight")
    with world.gateway.admin() as admin:
        for path in (tmp_path / "absent", fake):
            answer = admin.post(f"/tenants/{tenant}/adapters", json={"name": "bad", "path": str(path)})
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["param"] == "path"


def test_the_log_and_metrics_hold_no_prompt_and_no_key(world: World) -> None:
    """A canary in the prompt, and the key itself, are in no log line and no metric."""
    key = world.gateway.key(world.tenant())
    post(world, key, {"model": "plain", "messages": MESSAGES, "max_tokens": 4})
    post(world, key, {"model": CANARY, "messages": MESSAGES})
    log = world.gateway.log.read_text(encoding="utf-8")
    metrics = httpx2.get(f"{world.gateway.metrics_url}/metrics").text
    assert "gateway_requests_total" in metrics
    for sink in (log, metrics):
        assert CANARY not in sink
        assert key not in sink
