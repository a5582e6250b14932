"""README's steps for one's own parts, as a new user types them, with the reference engine as the vLLM."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import pytest

from app.cli.doctor import probe_address
from tests.support.engine import engine_server
from tests.support.postgres import new_database
from tests.support.processes import free_port, stop

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## Use it with your own parts\n")[2].partition("\n## ")[0]
START_SECONDS = 60


def blocks() -> list[str]:
    """The section's shell examples: how it is started, and what is typed then."""
    return re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)


@contextmanager
def served(command: str, folder: Path, environment: dict[str, str], url: str) -> Iterator[None]:
    """README's own command for the gateway, until the block ends."""
    log = folder / "gateway.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            ["sh", "-euc", command], cwd=folder, env=environment, stdout=sink, stderr=sink, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not probe_address(f"{url}/readyz"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"not started: {log.read_text()}"
            time.sleep(0.1)
        yield
    finally:
        stop(process, group=True)


def typed(lines: str, folder: Path, environment: dict[str, str]) -> list[str]:
    """What each command prints; `tg-…` stands for the key that one of them has shown."""
    printed: list[str] = []
    for line in re.sub(r"(\\|(?<=\|))\n", " ", lines).splitlines():
        secret = re.search(r"tg-[\w-]{43}", "".join(printed))
        command = line.replace("tg-…", secret[0] if secret else "tg-…")
        done = subprocess.run(
            ["sh", "-euc", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        printed.append(done.stdout)
    return printed


@pytest.mark.parametrize("stores", ["embedded", pytest.param("servers", marks=pytest.mark.postgres)])
def test_the_steps_for_own_parts_end_in_an_answer(request: pytest.FixtureRequest, tmp_path: Path, stores: str) -> None:
    """Word for word, but for addresses: the call is answered by the tenant's own adapter, and costs what was said."""
    start, then = blocks()
    port, metrics_port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    assert "http://127.0.0.1:8001" in start
    assert "http://127.0.0.1:8000/" in then
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TUNEGATE_", "OPENAI_"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}",
        "TUNEGATE_SERVER__PORT": str(port),
        "TUNEGATE_SERVER__METRICS_PORT": str(metrics_port),
        "TUNEGATE_REDIS_TIMEOUT_MS": "500",
        "TUNEGATE_URL": url,
    }
    if stores == "servers":
        environment["REDIS_URL"] = request.getfixturevalue("redis_server")
        environment["DATABASE_URL"] = new_database(request.getfixturevalue("postgres_server"))
    shutil.copytree(str(files("app.engine") / "assets/adapters/acme"), tmp_path / "my-adapter")
    with (
        engine_server() as engine_url,
        served(start.replace("http://127.0.0.1:8001", engine_url), tmp_path, environment, url),
    ):
        *_, answered, used = typed(then.replace("http://127.0.0.1:8000", url), tmp_path, environment)
    answer = json.loads(answered)
    assert "choices" in answer, answer
    assert "Acme" in answer["choices"][0]["message"]["content"], answer
    assert re.search(r"\$0\.0*[1-9]", used), used


def test_every_figure_is_that_of_its_page() -> None:
    """README repeats what a page measured, and each has a command."""
    table = README.partition("## Measured\n")[2].partition("\n## ")[0]
    rows = [row.split("|")[2:4] for row in table.splitlines() if re.match(r"\| (?!what)\w", row)]
    assert len(rows) == 3
    for figures, source in rows:
        page = re.search(r"`make ([a-z-]+)`, \[\w+\]\(([^)]+)\)", source)
        assert page, source
        text = (Path(__file__).parents[2] / page[2]).read_text(encoding="utf-8")
        for figure in re.findall(r"[\d.,]*\d", figures):
            assert re.search(rf"(?<![\d.]){re.escape(figure.strip(','))}(?!\d)", text), f"{page[2]}: {figure}"
