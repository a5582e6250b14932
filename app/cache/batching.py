"""Concurrent callers of an embedder joined into batches.

What arrives while all runs are taken forms the next batch, so a burst costs few runs, and a lone caller waits no longer
than the window. A caller that is cancelled only stops waiting; a run that fails fails its own callers only.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from app.cache.tasks import Tasks
from app.interfaces import EmbedderFailed

Vectors = NDArray[np.float32]
_Waiting = tuple[list[str], asyncio.Future[Vectors]]


class Batcher:
    """Calls `run` with the texts of several callers at once; `run` raises EmbedderFailed only."""

    def __init__(
        self,
        run: Callable[[list[str]], Awaitable[Vectors]],
        *,
        window_seconds: float = 0.0,
        max_texts: int | None = None,
        parallel: int = 1,
    ) -> None:
        self._run = run
        self._window_seconds = window_seconds
        self._max_texts = max_texts
        self._parallel = parallel
        self._running = 0
        self._waiting: list[_Waiting] = []
        self._window: asyncio.TimerHandle | None = None
        self._tasks = Tasks()

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """The vectors of one caller's texts."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Vectors] = loop.create_future()
        self._waiting.append((list(texts), answer))
        if not self._window_seconds:
            self._start()
        elif self._window is None:
            self._window = loop.call_later(self._window_seconds, self._window_ends)
        return await answer

    def _window_ends(self) -> None:
        self._window = None
        self._start()

    def _start(self) -> None:
        while self._waiting and self._running < self._parallel:
            self._running += 1
            self._tasks.start(self._serve(self._next()))

    def _next(self) -> list[_Waiting]:
        """As many callers as fit into one run, in their order; one that is too long for any run goes alone."""
        waiting = [item for item in self._waiting if not item[1].done()]
        sizes = itertools.accumulate(len(texts) for texts, _ in waiting)
        fitting = len(waiting) if self._max_texts is None else sum(size <= self._max_texts for size in sizes)
        self._waiting = waiting[max(1, fitting) :]
        return waiting[: max(1, fitting)]

    async def _serve(self, batch: list[_Waiting]) -> None:
        try:
            if batch:
                _hand_out(batch, await self._run([text for texts, _ in batch for text in texts]))
        except EmbedderFailed as exc:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(exc)
        finally:
            for _, answer in batch:
                answer.cancel()  # those still open, when this task was cancelled
            self._running -= 1
            self._start()


def _hand_out(batch: Sequence[_Waiting], vectors: Vectors) -> None:
    ends = itertools.accumulate(len(texts) for texts, _ in batch)
    for (texts, answer), end in zip(batch, ends, strict=True):
        if not answer.done():
            answer.set_result(vectors[end - len(texts) : end])
