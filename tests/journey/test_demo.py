"""README's first command, as a new user: start the demo, and run the snippet that README shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from openai import OpenAI

from tests.support.processes import free_port, stop

START_SECONDS = 120


def test_the_demo_answers_readmes_question_for_every_tenant(tmp_path: Path) -> None:
    """Three tenants, no `max_tokens`: three answers; the repeat is exact and a paraphrase semantic."""
    ports = {name: free_port() for name in ("port", "metrics-port", "engine-port")}
    options = [part for name, port in ports.items() for part in (f"--{name}", str(port))]
    command = [sys.executable, "-m", "app.cli", "demo", "--data", str(tmp_path / "data"), *options]
    log = tmp_path / "demo.log"
    patient = {**os.environ, "TUNEGATE_REDIS_TIMEOUT_MS": "500"}  # a busy test machine is not a slow Redis
    with log.open("wb") as output:
        demo = subprocess.Popen(command, stdout=output, stderr=output, env=patient)
    try:
        keys = _keys(demo, tmp_path / "data" / "demo.json", log)
        answers = {tenant: _asked(ports["port"], key) for tenant, key in keys.items()}
    finally:
        stop(demo)
    assert len({first for first, _ in answers.values()}) == len(keys) == 3
    assert {tuple(caches) for _, caches in answers.values()} == {("miss", "exact", "semantic")}


def _keys(demo: subprocess.Popen[bytes], written: Path, log: Path) -> dict[str, str]:
    """The keys, once the guide is printed."""
    deadline = time.monotonic() + START_SECONDS
    while "Ctrl-C ends" not in log.read_text():
        assert demo.poll() is None, log.read_text()
        assert time.monotonic() < deadline, f"not started: {log.read_text()}"
        time.sleep(0.1)
    keys: dict[str, str] = json.loads(written.read_text())
    return keys


def _asked(port: int, key: str) -> tuple[str, list[str]]:
    """The first answer, and what the cache had to do with each."""
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0)
    texts: list[str] = []
    caches: list[str] = []
    for question in ("How do I reset my password?", "How do I reset my password?", "How can I reset my password?"):
        answer = client.chat.completions.with_raw_response.create(
            model="support", messages=[{"role": "user", "content": question}]
        )
        texts.append(answer.parse().choices[0].message.content or "")
        caches.append(answer.headers["x-cache"])
    return texts[0], caches
