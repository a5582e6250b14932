"""What stops a start: one or two sentences on standard error, an exit code, no traceback and no secret."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECRET = "hunter2-hunter2"
SETTINGS = {
    "TUNEGATE_SERVER__PORT": "0",
    "TUNEGATE_SERVER__METRICS_PORT": "0",
    "TUNEGATE_CACHE__SEMANTIC": "false",
    "TUNEGATE_TELEMETRY__LOG_LEVEL": "error",
}


@dataclass(frozen=True, slots=True)
class Tunegate:
    """The command in an empty folder."""

    folder: Path

    def __call__(self, verb: str, **environment: str) -> tuple[int, str]:
        """How it ends, and what it says on standard error."""
        others = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TUNEGATE_", "OPENAI_", "REDIS_URL", "DATABASE_URL", "VLLM_"))
        }
        done = subprocess.run(
            [sys.executable, "-m", "app.cli", verb],
            cwd=self.folder,
            env={**others, "PYTHONPATH": str(ROOT), **SETTINGS, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stderr
        assert "hunter2" not in done.stderr + done.stdout
        assert 1 <= done.stderr.count("\n") <= 2, done.stderr
        assert done.stderr.startswith("tunegate: ")
        return done.returncode, done.stderr


@pytest.fixture
def tunegate(tmp_path: Path) -> Tunegate:
    """The command, in a folder where nothing is."""
    return Tunegate(tmp_path)


def test_settings_that_cannot_be_used(tunegate: Tunegate) -> None:
    """Exit code 2, for an address that is none and for a file that names itself only when it is opened."""
    code, said = tunegate("serve", REDIS_URL=f"foo:{SECRET}")
    assert code == 2
    assert said.startswith("tunegate: the settings cannot be used:\nREDIS_URL: expected redis://host:port/0")
    code, said = tunegate("serve", TUNEGATE_TRAINING__STORE_URL="nowhere")
    assert (code, "training.store_url: expected s3://" in said) == (2, True)


def test_a_database_that_nobody_serves(tunegate: Tunegate) -> None:
    """Exit code 1 and DATABASE_URL, for `serve` and `migrate`."""
    said = "tunegate: the database cannot be used: nothing listens there; check DATABASE_URL and that the server runs\n"
    for verb in ("serve", "migrate"):
        assert tunegate(verb, DATABASE_URL=f"postgresql://u:{SECRET}@127.0.0.1:1/name") == (1, said)


def test_a_database_that_is_absent(tunegate: Tunegate, postgres_server: str) -> None:
    """The server's refusal in words."""
    code, said = tunegate("migrate", DATABASE_URL=f"{postgres_server}/absent")
    assert (code, "the server has no database of that name" in said) == (1, True)
    code, said = tunegate("migrate", DATABASE_URL="sqlite:////absent/x.sqlite3")
    assert (code, "unable to open database file" in said) == (1, True)


def test_a_data_folder_that_cannot_be_made(tunegate: Tunegate) -> None:
    """Exit code 1, its name, and TUNEGATE_DATA."""
    (tunegate.folder / "file").write_text("", encoding="utf-8")
    code, said = tunegate("serve", TUNEGATE_DATA=str(tunegate.folder / "file" / "data"))
    assert code == 1
    assert f"the data folder {tunegate.folder / 'file' / 'data'} cannot be used: Not a directory" in said
    assert "set TUNEGATE_DATA" in said


def test_a_port_that_cannot_be_opened(tunegate: Tunegate) -> None:
    """An address of the documentation is no address of this machine."""
    code, said = tunegate("serve", TUNEGATE_SERVER__METRICS_HOST="203.0.113.5", TUNEGATE_SERVER__METRICS_PORT="9")
    assert (code, "203.0.113.5:9 cannot be opened: this machine has no such address" in said) == (1, True)
