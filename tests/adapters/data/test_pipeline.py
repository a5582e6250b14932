from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from adapters.data.dataset import examples_of, verify
from adapters.data.engine import Task
from adapters.errors import StageError
from adapters.types import Split
from tests.adapters.data.conftest import Prepared, run_recipe
from tests.adapters.data.proof import adds_up, cleaned, duplicates, leaks, personal, recipe, text_of
from tests.adapters.data.support_db import COLUMNS, NOW, TOPICS, SupportDatabase
from tests.support.processes import stop


def test_every_row_is_kept_or_counted(prepared: Prepared) -> None:
    """What was read is what was written plus what was dropped, by reason."""
    assert adds_up(prepared.manifest)
    assert {"filter:age", "filter:satisfaction", "duplicate:exact", "duplicate:near", "invalid:too_short"} <= set(
        prepared.manifest.drops
    )


def test_planted_copies_are_found(prepared: Prepared) -> None:
    """Exact copies are all found, nearly all near ones, and hardly anything else is called a duplicate."""
    exact, near, every = duplicates(prepared.home, prepared.planted)
    assert exact.planted > 40
    assert near.planted > 60
    assert exact.recall == 1.0
    assert near.recall >= 0.95
    assert every.precision >= 0.99


def test_planted_personal_data_is_gone(prepared: Prepared) -> None:
    """Every card, IBAN and e-mail address is replaced, and hardly anything that is none."""
    for figure in personal(prepared.home, prepared.planted):
        assert figure.planted > 50, figure
        assert figure.recall >= (0.99 if figure.name == "PHONE" else 1.0), figure
        assert figure.precision >= 0.95, figure


def test_planted_signatures_quotes_and_urls_are_gone(prepared: Prepared) -> None:
    """What mail programs add is taken out, and hardly anything else."""
    for figure in cleaned(prepared.home, prepared.planted):
        assert figure.planted > 50, figure
        assert figure.recall == 1.0, figure
        assert figure.precision >= 0.98, figure


def test_nothing_stands_on_two_sides(prepared: Prepared) -> None:
    """No customer and no cluster is split, though there are many of both."""
    assert leaks(prepared.folder) == {"customers": 0, "clusters": 0}
    assert any(example.cluster for example in examples_of(prepared.folder, Split.TRAIN))


def test_sides_have_their_shares_in_every_topic(prepared: Prepared) -> None:
    """Train has about 80 percent, and every topic is judged."""
    rows = {side: split.rows for side, split in prepared.manifest.splits.items()}
    assert 0.7 < rows[Split.TRAIN] / prepared.manifest.rows < 0.9
    assert {example.topic for example in examples_of(prepared.folder, Split.TEST)} == set(TOPICS)
    assert {example.topic for example in examples_of(prepared.folder, Split.VALIDATION)} == set(TOPICS)


def test_customers_are_hashes(prepared: Prepared) -> None:
    """The address that stood in the customer column is nowhere in what is written."""
    for side in Split:
        for example in examples_of(prepared.folder, side):
            assert "@" not in example.customer
            assert "example.com" not in text_of(example)


def test_same_data_twice_is_the_same_version(prepared: Prepared, tmp_path: Path) -> None:
    """Another folder and parts of another size give the same content, byte by byte."""
    again = run_recipe(recipe(prepared.url, rows_per_part=1_000), tmp_path)
    assert again.version == prepared.manifest.version
    assert {side: split.sha256 for side, split in again.splits.items()} == {
        side: split.sha256 for side, split in prepared.manifest.splits.items()
    }


def test_a_second_run_does_no_work(prepared: Prepared) -> None:
    """Stages that are whole are not run again."""
    before = {path: path.stat().st_mtime_ns for path in prepared.home.rglob("part-*")}
    assert run_recipe(prepared.settings, prepared.home).version == prepared.manifest.version
    assert {path: path.stat().st_mtime_ns for path in prepared.home.rglob("part-*")} == before


def test_verify_finds_a_changed_file(prepared: Prepared, tmp_path: Path) -> None:
    """A dataset whose bytes were changed is refused by name."""
    assert verify(prepared.folder).version == prepared.manifest.version
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in prepared.folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "test.jsonl").write_bytes(b"{}\n")
    with pytest.raises(StageError, match=r"test\.jsonl: is not what the manifest says"):
        verify(copy)
    (copy / "test.jsonl").write_bytes((prepared.folder / "test.jsonl").read_bytes())
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "sha256": "0" * 64}))
    with pytest.raises(StageError, match="the version does not belong to these files"):
        verify(copy)


def test_card_and_files_are_openai_rows(prepared: Prepared) -> None:
    """A row holds the conversation and nothing else; the card says what was left out and replaced."""
    line = json.loads((prepared.folder / "train.jsonl").read_text().partition("\n")[0])
    assert set(line) == {"messages"}
    assert [message["role"] for message in line["messages"]] == ["user", "assistant"]
    card = (prepared.folder / "README.md").read_text()
    assert prepared.manifest.version in card
    assert "duplicate:near" in card
    assert "IBAN" in card


def test_killed_run_goes_on_to_the_same_version(prepared: Prepared, tmp_path: Path) -> None:
    """A kill -9 in the middle of a stage: sealed parts stay, the rest is done, the version is the same."""
    path, home = tmp_path / "recipe.yaml", tmp_path / "work"
    source = {
        "kind": "sql",
        "name": "db",
        "url": prepared.url,
        "table": "tickets",
        "shape": "ticket",
        "columns": COLUMNS,
    }
    path.write_text(yaml.safe_dump({"name": "support", "sources": [source], "rows_per_part": 50}))
    command = [sys.executable, "-m", "adapters.cli", "prepare", str(path), "--home", str(home), "--workers", "1"]
    command += ["--as-of", NOW.strftime("%Y-%m-%dT%H:%M:%S"), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(process, lambda: list((home / "stages").glob("clean-*/part-000001.seal.json")))
        os.kill(process.pid, signal.SIGKILL)
    finally:
        stop(process)
    assert process.returncode == -signal.SIGKILL
    assert not list(home.glob("datasets/*/manifest.json"))
    sealed = {seal: seal.stat().st_mtime_ns for seal in home.rglob("*.seal.json")}
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    assert json.loads(done.stdout)["version"] == prepared.manifest.version
    assert {seal: seal.stat().st_mtime_ns for seal in sealed} == sealed


class Faltering:
    """An engine that dies after every task."""

    def run(self, task: Task, indexes: Sequence[int]) -> Iterator[int]:
        """Do one task and fall."""
        for index in indexes[:1]:
            yield task(index)
            raise Fallen


class Fallen(Exception):
    """Stands for a kill between two tasks."""


def test_falling_after_every_task_gives_the_same_version(prepared: Prepared, tmp_path: Path) -> None:
    """However often the work is cut, in whatever stage, each task is done once and the version is the same."""
    settings, falls = recipe(prepared.url, rows_per_part=1_000), 0
    (tmp_path / "datasets" / ".building-support-x").mkdir(parents=True)
    while True:
        try:
            manifest = run_recipe(settings, tmp_path, Faltering())
        except Fallen:
            falls += 1
            continue
        break
    assert manifest.version == prepared.manifest.version
    tasks = [seal for name in ("clean", "redact", "validate", "fingerprint", "pairs-near", "unique")
             for seal in tmp_path.glob(f"stages/{name}-*/*.seal.json")]  # fmt: skip
    assert falls == len(tasks) > 25


def test_growing_data_keeps_what_was_kept(tmp_path: Path) -> None:
    """Twice the tickets: no row that was in test is in train later, except where new rows joined groups."""
    sides = []
    for rows in (600, 1_200):
        url = f"sqlite:///{tmp_path}/{rows}.db"
        database = SupportDatabase(1_200)
        database.rows = rows
        database.write(url)
        manifest = run_recipe(recipe(url), tmp_path / str(rows))
        folder = tmp_path / str(rows) / "datasets" / manifest.version
        sides.append({example.id: side for side in Split for example in examples_of(folder, side)})
    common = sides[0].keys() & sides[1].keys()
    assert len(common) > 300
    assert len(common) == len(sides[0])
    moved = sum(sides[0][id_] is not sides[1][id_] for id_ in common)
    assert moved / len(common) < 0.1


def _wait_for(process: subprocess.Popen[bytes], done: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
