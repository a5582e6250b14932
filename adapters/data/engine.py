"""Who runs the steps: processes of this machine, or Ray. Both run the same functions on the same parts.

A task reads one part and writes one part, so memory is bounded by the parts under way, output is identical whatever the
engine, and a part that is sealed is never run twice. Ray's workers must see the same work folder (one machine, or a
shared file system): the parts travel by path.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from types import TracebackType
from typing import Any, Protocol, Self

from adapters.errors import MissingLibraryError, SidecarError

Task = Callable[[int], int]
_OURS: list[type[SidecarError]] = [SidecarError, *SidecarError.__subclasses__()]
_KINDS = {kind.__name__: kind for kind in _OURS}


class Engine(Protocol):
    """Runs one task per part, in any order."""

    def run(self, task: Task, indexes: Sequence[int]) -> Iterator[int]:
        """Give the result of every task as it ends."""
        ...


@dataclass(slots=True)
class LocalEngine(AbstractContextManager["LocalEngine"]):
    """One machine: one worker is the calling process itself, more are processes of their own.

    A worker process starts clean (spawn): libraries with threads of their own do not survive a fork.
    """

    workers: int = 1
    _pool: ProcessPoolExecutor | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        if self.workers > 1:
            self._pool = ProcessPoolExecutor(self.workers, mp_context=get_context("spawn"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(self, task: Task, indexes: Sequence[int]) -> Iterator[int]:
        """Run tasks with a short queue, so that a failure stops the rest."""
        if self._pool is None:
            yield from map(task, indexes)
            return
        rest = iter(indexes)
        running: set[Future[int]] = {self._pool.submit(task, index) for index in islice(rest, self.workers * 2)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {self._pool.submit(task, index) for index in islice(rest, len(done))}
            for future in done:
                yield future.result()


@dataclass(slots=True)
class RayEngine(AbstractContextManager["RayEngine"]):
    """Ray Data: a cluster by its address, or one started here with so many CPUs."""

    address: str | None = None
    cpus: int | None = None
    _ray: Any = field(default=None, init=False)

    def __enter__(self) -> Self:
        try:
            import ray
        except ImportError as exc:
            raise MissingLibraryError.of("Ray", "ray") from exc
        self._ray = ray
        if not ray.is_initialized():
            where = {"address": self.address} if self.address else {"num_cpus": self.cpus, "include_dashboard": False}
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
            ray.data.DataContext.get_current().enable_progress_bars = False
            logging.getLogger("ray.data").setLevel(logging.ERROR)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ray is not None:
            self._ray.shutdown()

    def run(self, task: Task, indexes: Sequence[int]) -> Iterator[int]:
        """Let Ray Data map the parts, one block each."""
        if not indexes:
            return
        rows = [{"index": index} for index in indexes]
        parts = self._ray.data.from_items(rows, override_num_blocks=len(rows))
        for row in parts.map(_RayTask(task)).iter_rows():
            if row["refusal"]:
                raise _KINDS[row["refusal"]](row["words"])
            yield int(row["result"])


@dataclass(frozen=True, slots=True)
class _RayTask:
    """A task in the shape Ray Data calls. Ray loses the type of an error on its way: ours travel by name and words."""

    task: Task

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"result": self.task(int(row["index"])), "refusal": "", "words": ""}
        except SidecarError as exc:
            return {"result": -1, "refusal": type(exc).__name__, "words": str(exc)}
