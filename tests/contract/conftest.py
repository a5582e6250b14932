"""The two servers that keep one contract: the reference engine and a real vLLM, over the shipped model and adapters."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.engine.options import packaged_model
from tests.support.engine import engine_server
from tests.support.vllm import vllm_server

TENANTS = ("acme", "bloom", "corvid")
TIMEOUT_SECONDS = 120
BOTH = ["reference", pytest.param("vllm", marks=pytest.mark.vllm)]


@dataclass(frozen=True, slots=True)
class Golden:
    """One greedy answer of transformers and peft: its prompt, its ids, its text."""

    model: str
    messages: list[dict[str, str]]
    prompt_token_ids: list[int]
    token_ids: list[int]
    text: str


@dataclass(frozen=True, slots=True)
class Assets:
    """The shipped model, its adapters and their golden answers."""

    root: Path
    golden: list[Golden]

    @property
    def base(self) -> Path:
        """The base model's folder."""
        return self.root / "base"

    def adapter(self, name: str) -> str:
        """An adapter's folder."""
        return str(self.root / "adapters" / name)

    def of(self, model: str) -> list[Golden]:
        """The golden answers of one model."""
        return [case for case in self.golden if case.model == model]


@dataclass(frozen=True, slots=True)
class Server:
    """A running server and what tests ask of it again and again."""

    http: httpx2.Client

    def post(self, path: str, body: object) -> httpx2.Response:
        """Send JSON."""
        return self.http.post(path, json=body)

    def load(self, name: str, path: str, **more: Any) -> httpx2.Response:
        """Register an adapter."""
        return self.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path, **more})

    def unload(self, name: str) -> httpx2.Response:
        """Forget an adapter."""
        return self.post("/v1/unload_lora_adapter", {"lora_name": name})

    def chat(self, model: str, messages: list[dict[str, str]], **more: Any) -> dict[str, Any]:
        """A greedy answer that must come."""
        body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 48, **more}
        answer = self.post("/v1/chat/completions", body)
        assert answer.status_code == 200, answer.text
        parsed: dict[str, Any] = answer.json()
        return parsed

    def events(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The parsed events of a stream that must end with [DONE]."""
        answer = self.post(path, {**body, "stream": True})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        blocks = answer.text.split("\n\n")
        assert blocks[-2:] == ["data: [DONE]", ""]
        return [json.loads(block.removeprefix("data: ")) for block in blocks[:-2]]

    def listed(self) -> list[dict[str, Any]]:
        """The model cards."""
        cards: list[dict[str, Any]] = self.http.get("/v1/models").json()["data"]
        return cards


@pytest.fixture(scope="session")
def assets() -> Assets:
    """What ships with the package."""
    root = packaged_model().parent
    manifest = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
    return Assets(root, [Golden(**case) for case in manifest["golden"]])


@pytest.fixture(scope="session")
def reference(assets: Assets) -> Iterator[Server]:
    """The reference engine: two slots, four adapters in host memory."""
    with (
        engine_server(model=assets.base, max_loras=2, max_cpu_loras=4, max_lora_rank=16) as url,
        httpx2.Client(base_url=url, timeout=TIMEOUT_SECONDS) as client,
    ):
        yield Server(client)


@pytest.fixture(scope="session")
def vllm(assets: Assets) -> Iterator[Server]:
    """A real vLLM with the same flags."""
    with (
        vllm_server(assets.base, max_loras=2, max_cpu_loras=4, max_lora_rank=16) as (url, _),
        httpx2.Client(base_url=url, timeout=TIMEOUT_SECONDS) as client,
    ):
        yield Server(client)


@pytest.fixture(scope="session", params=BOTH)
def any_server(request: pytest.FixtureRequest) -> Server:
    """Each of the two servers in turn."""
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def bare(any_server: Server) -> Server:
    """A server on which no adapter is registered."""
    for card in any_server.listed():
        if card["parent"] is not None:
            any_server.unload(card["id"])
    return any_server


@pytest.fixture
def server(bare: Server, assets: Assets) -> Server:
    """A server on which the three tenants' adapters are registered."""
    for tenant in TENANTS:
        assert bare.load(tenant, assets.adapter(tenant)).status_code == 200
    return bare


@pytest.fixture
def variant(assets: Assets, tmp_path: Path) -> Callable[..., str]:
    """A maker of copies of acme's adapter with a changed configuration."""

    def make(name: str, **changes: Any) -> str:
        source, folder = Path(assets.adapter("acme")), tmp_path / name
        folder.mkdir()
        config = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
        (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
        (folder / "adapter_model.safetensors").write_bytes((source / "adapter_model.safetensors").read_bytes())
        return str(folder)

    return make
