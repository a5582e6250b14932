"""The demo: the reference engine and a gateway on embedded stores, three tenants, one question.

Everything it makes lives in the data folder and is found again the next time. It administers the gateway over the
admin API, as anyone would; nothing is slipped in behind it.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

import httpx2
import yaml
from rich.console import Console

from app.cli.doctor import probe_address

TENANTS = ("acme", "bloom", "corvid")
QUESTION = "How do I reset my password?"
START_SECONDS = 90
LIMITS = {"requests_per_minute": 60, "tokens_per_minute": 60_000, "budget_day_microusd": 1_000_000}


class DemoError(Exception):
    """The demo cannot go on; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Demo:
    """Where the demo keeps things and listens."""

    folder: Path
    port: int
    metrics_port: int
    engine_port: int

    @property
    def url(self) -> str:
        """Address of the gateway."""
        return f"http://127.0.0.1:{self.port}"

    def run(self) -> int:
        """Start, seed, print, and wait for Ctrl-C; returns the exit code."""
        console = Console(stderr=True)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        children: list[subprocess.Popen[bytes]] = []
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            with console.status("starting the engine and the gateway"):
                children = self._start()
                keys = self._seed()
            print_guide(self.url, self.metrics_port, keys, self.folder)
            self._watch(children)
        except DemoError as exc:
            console.print(f"tunegate demo: {exc}", style="red", markup=False)
            return 1
        except KeyboardInterrupt:
            return 0
        finally:
            for child in reversed(children):
                _end(child)

    def _watch(self, children: list[subprocess.Popen[bytes]]) -> NoReturn:
        while all(child.poll() is None for child in children):
            time.sleep(0.2)
        raise DemoError(f"A server has stopped; its log is in {self.folder}.")

    def _start(self) -> list[subprocess.Popen[bytes]]:
        for port in (self.port, self.engine_port):
            if probe_address(f"http://127.0.0.1:{port}/health") or probe_address(f"http://127.0.0.1:{port}/healthz"):
                raise DemoError(f"Port {port} is in use; end the other server or choose --port / --engine-port.")
        config = self._write_settings()
        engine = ["-m", "app.engine", "--port", str(self.engine_port), "--max-loras", "2", "--max-cpu-loras", "4"]
        gateway = ["-m", "app.cli", "serve", "--config", str(config)]
        children = [_spawn(engine, self.folder / "engine.log"), _spawn(gateway, self.folder / "gateway.log")]
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            if any(child.poll() is not None for child in children) or time.monotonic() > deadline:
                for child in children:
                    _end(child)
                raise DemoError(f"The servers did not come up; see engine.log and gateway.log in {self.folder}.")
            time.sleep(0.1)
        return children

    def _ready(self) -> bool:
        """Whether the gateway serves and has found the engine."""
        try:
            return bool(httpx2.get(f"{self.url}/readyz", timeout=5).json()["status"] == "ready")
        except httpx2.HTTPError:
            return False

    def _write_settings(self) -> Path:
        settings = {
            "data_folder": str(self.folder),
            "server": {"port": self.port, "metrics_port": self.metrics_port},
            "pools": [
                {
                    "name": "demo",
                    "replicas": [f"http://127.0.0.1:{self.engine_port}"],
                    "max_loras": 2,
                    "max_cpu_loras": 4,
                }
            ],
            "prices": {"models": {"demo/*": {"input_usd_per_mtok": 0.5, "output_usd_per_mtok": 1.5}}},
        }
        path = self.folder / "demo.yaml"
        path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        return path

    def _seed(self) -> dict[str, str]:
        admin_key = (self.folder / "admin.key").read_text(encoding="utf-8").strip()
        kept = self.folder / "demo.json"
        keys: dict[str, str] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
        headers = {"authorization": f"Bearer {admin_key}"}
        with httpx2.Client(base_url=f"{self.url}/admin/v1", headers=headers, timeout=30) as admin:
            for tenant in TENANTS:
                _make(admin, "/tenants", {"id": tenant, "name": tenant.capitalize()})
                source = files("app.engine") / "assets" / "adapters" / tenant
                adapter = {"name": "support", "path": str(source), "alias": "champion"}
                _make(admin, f"/tenants/{tenant}/adapters", adapter)
            _make(admin, "/routes/support", support_route(), method="PUT")
            _make(admin, "/routes/minilm", embedding_route(), method="PUT")
            for tenant in TENANTS:
                if not self._works(keys.get(tenant)):
                    made = _make(admin, f"/tenants/{tenant}/keys", {"name": "demo", "limits": LIMITS})
                    keys[tenant] = made["secret"]
        temporary = self.folder / f"demo.json.{secrets.token_hex(4)}"
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(keys, indent=2) + "\n", encoding="utf-8")
        temporary.replace(kept)
        return keys

    def _works(self, key: str | None) -> bool:
        if key is None:
            return False
        answer = httpx2.get(f"{self.url}/v1/models", headers={"authorization": f"Bearer {key}"}, timeout=10)
        return answer.status_code == 200


def support_route() -> dict[str, Any]:
    """One shared route; each tenant's call goes to that tenant's own adapter."""
    target = {"pool": "demo", "adapter": "support", "alias": "champion"}
    return {
        "variants": [{"name": "champion", "weight": 100, "target": target}],
        "cache": {"exact": True, "semantic": True},
    }


def embedding_route() -> dict[str, Any]:
    """The embedding model inside the gateway as a route."""
    return {"variants": [{"name": "embedded", "weight": 100, "target": {"embedded": "minilm"}}]}


def print_guide(url: str, metrics_port: int, keys: dict[str, str], folder: Path) -> None:
    """What to try, ready to paste, on standard output."""
    first = TENANTS[0]
    lines = [
        f"Tunegate listens on {url}/v1 (metrics: http://127.0.0.1:{metrics_port}/metrics).",
        f"Three tenants, one model name `support`; the keys are in {folder / 'demo.json'}:",
        *(f"  {tenant:7} {key}" for tenant, key in keys.items()),
        "",
        "The same question to three tenants:",
        *(_curl(url, keys[tenant]) for tenant in keys),
        "",
        "With the openai SDK:",
        "  from openai import OpenAI",
        f'  client = OpenAI(base_url="{url}/v1", api_key="{keys[first]}")',
        f'  ask = [{{"role": "user", "content": "{QUESTION}"}}]',
        '  print(client.chat.completions.create(model="support", messages=ask).choices[0].message.content)',
        "",
        "What it cost:  tunegate usage   (in .venv/bin; `tunegate --help` shows the rest)",
        "Ctrl-C ends both servers.",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _curl(url: str, key: str) -> str:
    body = json.dumps({"model": "support", "messages": [{"role": "user", "content": QUESTION}]})
    return (
        f"  curl -s {url}/v1/chat/completions -H 'authorization: Bearer {key}' -H 'content-type: application/json'"
        f" -d '{body}'"
    )


def _make(admin: httpx2.Client, path: str, body: dict[str, Any], *, method: str = "POST") -> dict[str, Any]:
    answer = admin.request(method, path, json=body)
    if answer.status_code == 409:  # made by an earlier run
        return {}
    if not answer.is_success:
        raise DemoError(f"{method} {path} answered {answer.status_code}: {answer.text[:300]}")
    made: dict[str, Any] = answer.json()
    return made


def _spawn(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as sink:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, *arguments], stdout=sink, stderr=sink, env=environment)  # noqa: S603 - our own program


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
