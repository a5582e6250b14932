"""Steps told from the training process to whoever started it: one JSON line each, in a file that outlives both.

A file and not a pipe, so that the reader may die, be replaced, and read on. Lines are written whole; a reader that
meets half a line (a kill, a full disk) leaves it for the next read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec


class Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened. `step` counts optimizer steps; losses are nats per learned token; durations seconds."""

    kind: Literal["start", "step", "evaluation", "checkpoint", "end"]
    step: int = 0
    total_steps: int = 0
    train_loss: float | None = None
    train_accuracy: float | None = None
    valid_loss: float | None = None
    valid_accuracy: float | None = None
    learning_rate: float | None = None
    seconds_left: float | None = None
    message: str = ""

    def line(self) -> str:
        """One line for a person: step, loss, time left."""
        loss = (
            f"held-out loss {self.valid_loss:.4f}"
            if self.valid_loss is not None
            else f"loss {self.train_loss or 0:.4f}"
        )
        left = "" if self.seconds_left is None else f", {self.seconds_left:.0f} s left"
        return f"step {self.step}/{self.total_steps}: {loss}{left}"


class ProgressWriter:
    """Appends lines to the progress file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def tell(self, progress: Progress) -> None:
        """Append one line in one write."""
        with self._path.open("ab") as opened:
            opened.write(msgspec.json.encode(progress) + b"\n")


class ProgressReader:
    """Reads what was appended since the last read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def read(self) -> list[Progress]:
        """New whole lines, oldest first; none when the file is not there yet."""
        try:
            with self._path.open("rb") as opened:
                opened.seek(self._at)
                data = opened.read()
        except FileNotFoundError:
            return []
        end = data.rfind(b"\n") + 1
        self._at += end
        return [msgspec.json.decode(line, type=Progress) for line in data[:end].splitlines() if _is_whole(line)]


def _is_whole(line: bytes) -> bool:
    """A kill may leave half a line that the next process wrote on; such a line is skipped."""
    try:
        msgspec.json.decode(line, type=Progress)
    except msgspec.DecodeError:
        return False
    return True


class Pace:
    """Time left, from a smoothed time per step; the first steps count little, since they warm up."""

    def __init__(self, smoothing: float = 0.1) -> None:
        self._smoothing = smoothing
        self._seconds_per_step: float | None = None
        self._last: tuple[int, float] | None = None

    def at(self, step: int, total: int, now: float) -> float | None:
        """Seconds left at this step, or None while nothing is known. `now` is any monotonic clock."""
        if self._last is not None and step > self._last[0]:
            took = (now - self._last[1]) / (step - self._last[0])
            old = self._seconds_per_step
            self._seconds_per_step = took if old is None else old + self._smoothing * (took - old)
        self._last = (step, now)
        return None if self._seconds_per_step is None else round(self._seconds_per_step * (total - step), 1)
