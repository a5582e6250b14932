"""Progress for people: bars with rate and time left on standard error, on a terminal only; else one line per stage."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from adapters.data.stage import Progress as Told


@dataclass(slots=True)
class Bars:
    """One bar per stage; `total` counts parts, the text beside it rows."""

    progress: Progress
    task: TaskID | None = None
    rows: int = 0

    def start(self, stage: str, total: int | None) -> None:
        """End the bar before and begin one."""
        self.end()
        self.rows = 0
        self.task = self.progress.add_task(stage, total=total, rows="")

    def advance(self, rows: int) -> None:
        """Count a part."""
        if self.task is not None:
            self.rows += rows
            self.progress.update(self.task, advance=1, rows=f"{self.rows:,} rows")

    def end(self) -> None:
        """Fill the bar of the stage that is over."""
        if self.task is not None:
            done = self.progress.tasks[self.task].completed
            self.progress.update(self.task, total=max(1, done), completed=max(1, done))


class Lines:
    """One line per stage, for logs."""

    def start(self, stage: str, total: int | None) -> None:
        """Name the stage."""
        size = "" if total is None else f" ({total} parts)"
        sys.stderr.write(f"adapters: {stage}{size}\n")

    def advance(self, rows: int) -> None:
        """Say nothing of single parts."""


@contextmanager
def shown() -> Iterator[Told]:
    """Give bars on a terminal, lines elsewhere."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rows]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bars = Bars(progress)
        yield bars
        bars.end()
