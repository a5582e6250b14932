"""A training as a child process: started, read, stopped politely, and never left behind.

A process of its own, so that the event loop keeps beating while torch computes, a crash of native code fails one job
and not the worker, and all memory comes back. The child watches its parent and ends with it, even after kill -9.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from adapters.training.disk import full, is_full
from adapters.training.errors import TrainingError, TrainingFailed, of_code
from adapters.training.plan import TrainingPlan, write_plan
from adapters.training.progress import Progress, ProgressReader

STOPPED = 4
_LOG_TAIL = 600


class TrainingProcess:
    """A running training; make one with `training`."""

    def __init__(self, plan: TrainingPlan, process: asyncio.subprocess.Process, log: Path) -> None:
        self._plan = plan
        self._process = process
        self._log = log
        self._reader = ProgressReader(plan.progress_file)
        self._reader.read()  # what an earlier process told has been told on

    async def steps(self, every_seconds: float) -> AsyncIterator[list[Progress]]:
        """What happened since the last look, again and again until the process has ended."""
        ended = False
        while not ended:
            try:
                await asyncio.wait_for(self._process.wait(), every_seconds)
                ended = True
            except TimeoutError:
                pass
            if news := self._reader.read():
                yield news

    async def stop(self, within_seconds: float) -> None:
        """Ask it to save a checkpoint and end; kill what has not ended in time."""
        if self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), within_seconds)
            except TimeoutError:
                self.kill()
                await self._process.wait()

    def kill(self) -> None:
        """End the process and all its ranks at once."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):  # it has ended, and the loop has not been told yet
                os.killpg(self._process.pid, signal.SIGKILL)

    def check(self) -> None:
        """Raise what the process wrote down as its reason, when it ended badly; a full disk takes its words away."""
        status = self._process.returncode
        if status == 0:
            return
        if (error := read_error(self._plan)) is not None:
            raise error
        if is_full(self._plan.folder):
            raise full(self._plan.folder)
        told = f"signal {-status}" if status is not None and status < 0 else f"status {status}"
        hint = "; the machine may have run out of memory: lower micro_batch_size" if status == -signal.SIGKILL else ""
        raise TrainingFailed(f"the training process ended with {told}{hint}")

    def log_tail(self) -> str:
        """The end of what the process wrote; for the operator's log, never for the tenant."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:]


@asynccontextmanager
async def training(plan: TrainingPlan, program: Sequence[str] = ()) -> AsyncIterator[TrainingProcess]:
    """Start a training by `program PLAN` (this package's own by default); leaving the block by any door ends it."""
    plan_file, log = write_plan(plan), plan.folder / "training.log"
    plan.error_file.unlink(missing_ok=True)
    with log.open("ab") as opened:
        process = await asyncio.create_subprocess_exec(
            *(program or (sys.executable, "-m", "adapters.training")),
            str(plan_file),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=opened,
            stderr=opened,
            start_new_session=True,
        )
    running = TrainingProcess(plan, process, log)
    try:
        yield running
    finally:
        running.kill()
        await process.wait()


def read_error(plan: TrainingPlan) -> TrainingError | None:
    """The reason that a training process wrote down."""
    try:
        told = msgspec.json.decode(plan.error_file.read_bytes())
    except FileNotFoundError:
        return None
    return of_code(told["code"], told["message"], told["param"])
