"""Servers that can be killed and brought back on the same port: reference engines, or real vLLM (CPU build)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from tests.support.engine import running_server
from tests.support.processes import free_port
from tests.support.vllm import ENVIRONMENT, ONE_PROCESS, ONE_PROCESS_FLAGS, vllm_command

ENGINE_SECONDS = 60
VLLM_SECONDS = 600
MAX_LORA_RANK = 8


@dataclass(slots=True)
class Server:
    """One model server; `start` and `kill` may follow one another."""

    command: Sequence[str]
    url: str
    seconds: float
    environment: dict[str, str]
    running: ExitStack = field(default_factory=ExitStack)
    process_id: int = 0

    def start(self) -> None:
        """Start it and wait until it is well."""
        _, process = self.running.enter_context(
            running_server(self.command, self.url, seconds=self.seconds, environment=self.environment)
        )
        self.process_id = process.pid

    def kill(self) -> None:
        """Kill -9, the whole process group."""
        os.killpg(self.process_id, signal.SIGKILL)
        self.running.close()


@contextmanager
def fleet(kind: str, base: Path, count: int, *, loras: tuple[int, int], store: Path) -> Iterator[list[Server]]:
    """So many servers of one kind: `engine`, `vllm`, or `plugin` (vLLM with the plugin of this repository).

    `loras` are places in GPU slots and in host memory; with the plugin adapters are resolved from the folder `store`.
    """
    kinds: dict[str, Callable[[Path, tuple[int, int]], Server]] = {
        "engine": _engine,
        "vllm": _vllm,
        "plugin": partial(_vllm_with_plugin, store),
    }
    made = kinds[kind]
    servers = [made(base, loras) for _ in range(count)]
    with ExitStack() as stack, ThreadPoolExecutor(count) as starting:
        for server in servers:
            stack.callback(server.running.close)
        list(starting.map(Server.start, servers))
        yield servers


def _engine(base: Path, loras: tuple[int, int]) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "app.engine", "--port", str(port), "--model", str(base)]
    command += ["--max-loras", str(loras[0]), "--max-cpu-loras", str(loras[1])]
    return Server(command, f"http://127.0.0.1:{port}", ENGINE_SECONDS, {})


def _vllm(base: Path, loras: tuple[int, int]) -> Server:
    port = free_port()
    command = vllm_command(base, port, max_loras=loras[0], max_cpu_loras=loras[1], max_lora_rank=MAX_LORA_RANK)
    environment = {**ENVIRONMENT, **ONE_PROCESS}
    return Server([*command, *ONE_PROCESS_FLAGS], f"http://127.0.0.1:{port}", VLLM_SECONDS, environment)


def _vllm_with_plugin(store: Path, base: Path, loras: tuple[int, int]) -> Server:
    server = _vllm(base, loras)
    more = {"VLLM_PLUGINS": "tunegate", "TUNEGATE_ADAPTERS": str(store)}
    return replace(server, environment={**server.environment, **more})
