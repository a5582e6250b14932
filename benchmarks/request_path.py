"""CPU per request and requests per second of one gateway process on one core, beside a bare relay, in one run.

Everything is on loopback: core 0 runs the server that is measured, core 1 the mock upstream, Redis and the load
generator (wrk). Every stage is on (auth, limits of three accounts, budgets, routing, settlement, ledger, metrics, log);
the cache is off. CPU is user plus system time of the measured process from /proc, over completed requests.
`python -m benchmarks.request_path --seconds 5 --rounds 3` prints a table and, last, the ratio to the bare relay.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import yaml

from app.cli.doctor import probe_address
from benchmarks.servers import CHUNKS

TICKS = os.sysconf("SC_CLK_TCK")
LIMITS = {
    "requests_per_minute": 100_000_000,
    "tokens_per_minute": 1_000_000_000,
    "tokens_per_day": 1_000_000_000_000,
    "concurrent_requests": 100_000,
    "budget_day_microusd": 1_000_000_000_000,
    "budget_month_microusd": 1_000_000_000_000,
}
SCRIPT = """wrk.method = "POST"
wrk.body = [==[{body}]==]
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer {key}"
function response(status) if status ~= 200 then print("status " .. status) end end
"""
BODY = (
    '{"model":"bench","stream":%s,"max_tokens":200,"messages":[{"role":"system","content":"%s"},'
    '{"role":"user","content":"Where is my parcel?"}]}'
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of the load generator against one server."""

    rps: float
    cpu_ms: float


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--seconds", type=int, default=5, help="length of one run")
    options.add_argument("--rounds", type=int, default=3, help="runs of each cell; the median is printed")
    chosen = options.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: run `make deps`")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = start(Path(folder), stack)
        report(measure(servers, Path(folder), chosen.seconds, chosen.rounds))


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: address, process, key."""

    port: int
    pid: int
    key: str


def start(folder: Path, stack: ExitStack) -> dict[str, Server]:
    """Start mock, relay, Redis and gateway, pinned to their cores."""
    run = [sys.executable, "-m"]
    stack.enter_context(child([*run, "benchmarks.servers", "mock", "8900"], core=1))
    upstream = "http://127.0.0.1:8900"
    relay = stack.enter_context(child([*run, "benchmarks.servers", "relay", "8901", upstream], core=0))
    redis = ["redis-server", "--port", "8903", "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
    stack.enter_context(child(redis, core=1))
    gateway = stack.enter_context(
        child([*run, "app.cli", "serve", "--config", str(settings(folder, upstream))], core=0)
    )
    wait("http://127.0.0.1:8902/readyz")
    return {"bare relay": Server(8901, relay.pid, "none"), "gateway": Server(8902, gateway.pid, seed(folder))}


def settings(folder: Path, upstream: str) -> Path:
    """The gateway's configuration."""
    path = folder / "bench.yaml"
    values = {
        "data_folder": str(folder / "data"),
        "redis_url": "redis://127.0.0.1:8903/0",
        "redis_timeout_ms": 1000,
        "server": {"port": 8902, "metrics_port": 0},
        "providers": [{"name": "mock", "base_url": upstream}],
        "prices": {"models": {"mock/*": {"input_usd_per_mtok": 0.5, "output_usd_per_mtok": 1.5}}},
        "cache": {"semantic": False},
    }
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def seed(folder: Path) -> str:
    """A key whose key, team and tenant all have every limit; returns its secret."""
    secret = (folder / "data" / "admin.key").read_text(encoding="utf-8").strip()
    headers = {"authorization": f"Bearer {secret}"}
    with httpx2.Client(base_url="http://127.0.0.1:8902/admin/v1", headers=headers) as admin:
        admin.event_hooks = {"response": [_must_succeed]}
        admin.post("/tenants", json={"id": "bench", "name": "bench", "limits": LIMITS})
        admin.post("/tenants/bench/teams", json={"id": "team", "name": "team", "limits": LIMITS})
        target = {"provider": "mock", "model": "mock"}
        variants = [{"name": "only", "weight": 1, "target": target}]
        admin.put("/routes/bench", json={"variants": variants})
        made = admin.post("/tenants/bench/keys", json={"name": "k", "team_id": "team", "limits": LIMITS})
        return str(made.json()["secret"])


def _must_succeed(response: httpx2.Response) -> None:
    if not response.is_success:
        response.read()
        sys.exit(f"{response.request.url} answered {response.status_code}: {response.text}")


def measure(servers: dict[str, Server], folder: Path, seconds: int, rounds: int) -> dict[tuple[str, str, int], Sample]:
    """The median of each cell; the servers take turns, so that a noisy minute touches both."""
    cells: dict[tuple[str, str, int], list[Sample]] = {}
    for _ in range(rounds):
        for mode in ("whole", "stream"):
            for connections in (64, 1):
                for name, server in servers.items():
                    script = folder / f"{mode}-{server.port}.lua"
                    body = BODY % ("true" if mode == "stream" else "false", "Be brief and kind. " * 45)
                    script.write_text(SCRIPT.format(body=body, key=server.key), encoding="utf-8")
                    cells.setdefault((name, mode, connections), []).append(load(server, script, connections, seconds))
    return {cell: middle(samples) for cell, samples in cells.items()}


def middle(samples: list[Sample]) -> Sample:
    """Median of both figures."""
    return Sample(
        statistics.median(sample.rps for sample in samples), statistics.median(sample.cpu_ms for sample in samples)
    )


def load(server: Server, script: Path, connections: int, seconds: int) -> Sample:
    """Run wrk once and read what the server's process used meanwhile."""
    before = cpu_seconds(server.pid)
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script)]
    command.append(f"http://127.0.0.1:{server.port}/v1/chat/completions")
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = cpu_seconds(server.pid) - before
    if "status " in said:
        sys.exit(f"a request was refused: {said[:500]}")
    found = re.search(r"(\d+) requests in", said)
    requests = int(found[1]) if found else 0
    if not requests:
        sys.exit(
            f"no request to port {server.port} was answered ({script.stem}, {connections} connections): {said[:500]}"
        )
    return Sample(rps=requests / seconds, cpu_ms=used * 1000 / requests)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def report(cells: dict[tuple[str, str, int], Sample]) -> None:
    """A table, then the ratios."""
    print(f"{'server':12} {'mode':7} {'c':>3} {'req/s':>9} {'CPU ms/req':>11} {'CPU ms/1000 chunks':>19}")
    for (name, mode, connections), sample in cells.items():
        chunks = f"{sample.cpu_ms * 1000 / CHUNKS:.1f}" if mode == "stream" else ""
        print(f"{name:12} {mode:7} {connections:3} {sample.rps:9.0f} {sample.cpu_ms:11.3f} {chunks:>19}")
    ratios = {
        f"{mode} c={connections}": cells["gateway", mode, connections].cpu_ms / sample.cpu_ms
        for (name, mode, connections), sample in cells.items()
        if name == "bare relay"
    }
    print("figure: CPU ratio to the bare relay: " + ", ".join(f"{cell} {ratio:.2f}" for cell, ratio in ratios.items()))


@contextmanager
def child(command: list[str], core: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process pinned to one core, ended with the block."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    os.sched_setaffinity(process.pid, {core % (os.cpu_count() or 1)})
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait(url: str) -> None:
    """Until this address answers 200, at most a minute."""
    for _ in range(600):
        if probe_address(url):
            return
        time.sleep(0.1)
    sys.exit(f"{url} does not answer")


if __name__ == "__main__":
    main()
