"""The data rooms proved: a messy support database in PostgreSQL, a killed stage, both engines, 200,000 examples.

    python -m tests.prove.training_data [--tickets 20000] [--examples 200000] [--engine local --engine ray]

1. A PostgreSQL support database with planted copies, signatures, quotes and personal data is prepared; what was planted
   is looked for, and precision and recall are printed. No customer and no cluster stands on two sides.
2. The same again, killed with -9 in the middle of redaction, goes on to the same version. Both by the command line.
3. A large database is prepared by each engine in processes of their own; rows per second and the highest memory of the
   whole family of processes are printed, and both give the same version.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import yaml

from adapters.data.dataset import verify
from tests.adapters.data.proof import adds_up, cleaned, duplicates, leaks, personal
from tests.adapters.data.support_db import COLUMNS, NOW, SupportDatabase
from tests.support.postgres import new_database, running_postgres
from tests.support.processes import stop

KEY = {"ADAPTERS_REDACTION_KEY": "a key for proofs"}
RECALL = {"exact copies": 1.0, "near copies": 0.95, "EMAIL": 1.0, "CARD": 1.0, "IBAN": 1.0, "PHONE": 0.99}
PRECISION = 0.95
POLL_SECONDS = 0.2


def main() -> int:
    """Run the proofs and print their figures; 1 when one of them fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tickets", type=int, default=20_000)
    parser.add_argument("--examples", type=int, default=200_000)
    parser.add_argument("--engine", action="append", choices=("local", "ray"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    failures = []
    with tempfile.TemporaryDirectory(prefix="prove-data-") as folder:
        failures += prove_quality(Path(folder), options.tickets, options.workers)
        failures += prove_size(Path(folder), options.examples, options.engine or ["local", "ray"], options.workers)
    for failure in failures:
        print(f"FAILED: {failure}")
    print("training data: " + ("failed" if failures else "proved"))
    return 1 if failures else 0


def prove_quality(folder: Path, tickets: int, workers: int) -> list[str]:
    """Planted items in PostgreSQL, then the same with a kill."""
    (folder / "postgres").mkdir()
    with running_postgres(folder / "postgres") as server:
        url = new_database(server).replace("postgresql://", "postgresql+psycopg://")
        database = SupportDatabase(tickets)
        database.write(url)
        recipe = write_recipe(folder / "quality.yaml", url, rows_per_part=1_000)
        whole, killed = folder / "whole", folder / "killed"
        manifest = json.loads(run(command(recipe, whole, "local", workers)))
        version = kill_and_go_on(command(recipe, killed, "local", workers), killed)
    failures = [] if version == manifest["version"] else [f"killed run gave {version}, not {manifest['version']}"]
    print(f"kill -9 in redaction, run again: {version} (uninterrupted: {manifest['version']})")
    found = [
        *duplicates(whole, database.planted),
        *personal(whole, database.planted),
        *cleaned(whole, database.planted),
    ]
    for figure in found:
        print(figure)
        if figure.recall < RECALL.get(figure.name, 1.0) or figure.precision < PRECISION:
            failures.append(str(figure))
    dataset = whole / "datasets" / manifest["version"]
    both = leaks(dataset)
    print(f"on two sides: {both}; read {manifest['read']}, kept {manifest['rows']}, left out {manifest['drops']}")
    failures += [f"{count} {name} on two sides" for name, count in both.items() if count]
    return failures if adds_up(verify(dataset)) else [*failures, "rows read are not rows kept plus rows left out"]


def prove_size(folder: Path, examples: int, engines: list[str], workers: int) -> list[str]:
    """Rows per second and highest memory of each engine, and one version from all of them."""
    url = f"sqlite:///{folder}/large.db"
    SupportDatabase(examples, seed=2).write(url)
    recipe = write_recipe(folder / "large.yaml", url, rows_per_part=5_000)
    versions = {}
    for engine in engines:
        with Memory() as memory:
            started = time.monotonic()
            manifest = json.loads(run(command(recipe, folder / f"large-{engine}", engine, workers), memory))
            seconds = time.monotonic() - started
        versions[engine] = manifest["version"]
        print(
            f"{engine}, {workers} workers: {examples} rows in {seconds:.0f} s = {examples / seconds:.0f} rows/s; "
            f"highest memory {memory.highest / 2**20:.0f} MiB in all processes, {memory.driver / 2**20:.0f} MiB in "
            f"the driver; {manifest['version']}"
        )
    return [] if len(set(versions.values())) == 1 else [f"engines differ: {versions}"]


def write_recipe(path: Path, url: str, rows_per_part: int) -> Path:
    """Write the data recipe of the support database."""
    source = {"kind": "sql", "name": "db", "url": url, "table": "tickets", "shape": "ticket", "columns": COLUMNS}
    path.write_text(yaml.safe_dump({"name": "support", "sources": [source], "rows_per_part": rows_per_part}))
    return path


def command(recipe: Path, home: Path, engine: str, workers: int) -> list[str]:
    """The command that a person would type."""
    base = [sys.executable, "-m", "adapters.cli", "prepare", str(recipe), "--home", str(home), "--json"]
    return [*base, "--engine", engine, "--workers", str(workers), "--as-of", NOW.strftime("%Y-%m-%dT%H:%M:%S")]


def run(words: list[str], memory: Memory | None = None) -> str:
    """Run a command to its end and give what it wrote."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, env={**os.environ, **KEY}, text=True)
    if memory is not None:
        memory.watch(process.pid)
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(words[1:5])} ended with {process.returncode}")
    return out


def kill_and_go_on(words: list[str], home: Path) -> str:
    """Kill the run with -9 once redaction has sealed two parts, then run it again."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, env={**os.environ, **KEY}, start_new_session=True)
    try:
        while len(list(home.glob("stages/redact-*/*.seal.json"))) < 2:
            if process.poll() is not None:
                raise SystemExit("the run ended before it could be killed: take more tickets")
            time.sleep(POLL_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finally:
        stop(process)
    return str(json.loads(run(words))["version"])


@dataclass(slots=True)
class Memory:
    """The highest memory of a family of processes: proportional set sizes, so what they share counts once."""

    highest: int = 0
    driver: int = 0
    _thread: threading.Thread | None = None
    _ended: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        if self._thread is not None:
            self._thread.join()

    def watch(self, pid: int) -> None:
        """Look at a process and all that come from it until the end of the block."""
        self._thread = threading.Thread(target=self._look, args=(pid,), daemon=True)
        self._thread.start()

    def _look(self, pid: int) -> None:
        while not self._ended:
            sizes = {member: _pss(member) for member in _family(pid)}
            self.highest = max(self.highest, sum(sizes.values()))
            self.driver = max(self.driver, sizes.get(pid, 0))
            time.sleep(POLL_SECONDS)


def _family(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (ValueError, OSError):  # not a process, or one that has just gone
            continue
    family, before = {pid}, 0
    while len(family) > before:
        before = len(family)
        family |= {child for child, parent in parents.items() if parent in family}
    return family


def _pss(pid: int) -> int:
    try:
        lines = (Path("/proc") / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:  # it has just gone
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    sys.exit(main())
