"""What must be on this machine: Python, files that the settings name, the data folder, weights, free ports."""

from __future__ import annotations

import secrets
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from app.cache.minilm import ADVICE, MissingModel, model_files
from app.cli.doctor.finding import PROBE_SECONDS, Finding
from app.cli.reasons import why
from app.cli.starting import folder_lacks
from app.settings import Settings, SettingsError
from app.storage.base_shapes import BaseShapes
from app.wiring import price_list


def findings(settings: Settings) -> Iterator[Finding]:
    """Each part in turn."""
    yield _settings(settings)
    yield _python()
    yield _writable(settings.data_folder)
    yield _weights(settings)
    server = settings.server
    yield _port("api port", (server.host, server.port), "/healthz", '{"status":"ok"}')
    if server.metrics_port:
        yield _port("metrics port", (server.metrics_host, server.metrics_port), "/metrics", "gateway_")


def _settings(settings: Settings) -> Finding:
    """The settings, with the files that they name."""
    try:
        price_list(settings)
        for base in settings.adapters.bases.values():
            BaseShapes.read(base.config_file)
    except SettingsError as exc:
        return Finding("settings", False, str(exc))
    except ValueError as exc:
        return Finding("settings", False, f"adapters.bases: {exc}")
    return Finding("settings", True, "understood")


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("python", sys.version_info >= (3, 11), f"{version}; 3.11 or newer is needed")


def _writable(folder: Path) -> Finding:
    test = folder / f".write-test-{secrets.token_hex(8)}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        test.write_bytes(b"tunegate")
        test.unlink()
    except OSError as exc:
        return Finding("data folder", False, folder_lacks(folder, exc))
    return Finding("data folder", True, str(folder))


def _weights(settings: Settings) -> Finding:
    if not settings.cache.semantic:
        return Finding("embedding weights", True, "not needed: cache.semantic is false")
    try:
        return Finding("embedding weights", True, f"installed, version {model_files().version}")
    except MissingModel:
        return Finding("embedding weights", False, f"not installed: {ADVICE}, or set cache.semantic to false")


def _port(part: str, address: tuple[str, int], path: str, sign: str) -> Finding:
    """Whether it can be opened, or is already by a gateway, which answers `path` with this sign."""
    host, port = address
    try:
        (family, kind, protocol, _, place), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen()
    except OSError as exc:
        if sign in _answer(host, port, path):
            return Finding(part, True, f"{host}:{port}: a gateway runs there already")
        return Finding(part, False, f"{host}:{port} cannot be opened: {why(exc)}; choose another address or port")
    return Finding(part, True, f"{host}:{port} is free")


def _answer(host: str, port: int, path: str) -> str:
    """What a server on this machine says; nothing where none does."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    try:
        with urllib.request.urlopen(f"http://{name}:{port}{path}", timeout=PROBE_SECONDS) as answer:
            return str(answer.read(64 * 1024).decode("utf-8", "replace"))
    except (urllib.error.URLError, OSError, ValueError):
        return ""
