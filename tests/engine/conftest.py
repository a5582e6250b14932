"""One random model with six random adapters, and a server over them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
import uvicorn

from app.engine.options import EngineOptions
from app.engine.server import create_app
from app.engine.tokenizer import Tokenizer
from app.engine.weights import ModelConfig, read_config
from tests.engine.tiny import write_adapter, write_base
from tests.support.engine import wait_until

ADAPTERS = tuple(f"a{index}" for index in range(6))


@dataclass(frozen=True, slots=True)
class Assets:
    """Folders of the model and its adapters."""

    base: Path
    adapters: Path
    config: ModelConfig

    def path(self, name: str) -> str:
        """The folder of one adapter."""
        return str(self.adapters / name)


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    """A random model and six adapters that change its answers."""
    root = tmp_path_factory.mktemp("tiny")
    base = write_base(root / "base")
    config = read_config(base)
    for seed, name in enumerate(ADAPTERS, start=1):
        write_adapter(root / "adapters" / name, config, seed=seed)
    return Assets(base, root / "adapters", config)


@pytest.fixture(scope="session")
def tokenizer(assets: Assets) -> Tokenizer:
    """The random model's tokenizer: one token a byte."""
    return Tokenizer(assets.base)


@pytest.fixture
def engine(assets: Assets) -> Iterator[httpx2.Client]:
    """A fresh engine over a real socket, in a thread: two slots, three adapters in host memory."""
    options = EngineOptions(model=assets.base, max_loras=2, max_cpu_loras=3, max_num_seqs=8)
    config = uvicorn.Config(
        create_app(options), host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, 20)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        yield client
    server.should_exit = True
    thread.join()
