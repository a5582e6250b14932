"""Who runs: the waiting queue, the running set, and vLLM's rule for adapters.

At most `max_num_seqs` sequences run, with at most `max_loras` distinct adapters among them. A waiting sequence whose
adapter is not running while all slots are taken is passed over, and later ones overtake it: vLLM does no ageing, so it
can starve, and so it does here. No clock and no I/O: the engine thread calls it.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from app.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Load:
    """A count of what runs and what waits, and why it waits; adapters are the names among running and waiting."""

    running: int = 0
    capacity: int = 0
    deferred: int = 0
    adapters: tuple[str, ...] = ()

    @property
    def waiting(self) -> int:
        """All that wait, for whatever reason."""
        return self.capacity + self.deferred


class Scheduler:
    """The two queues."""

    def __init__(self, *, max_num_seqs: int, max_loras: int) -> None:
        self.running: list[Sequence] = []
        self._waiting: deque[Sequence] = deque()
        self._max_num_seqs = max_num_seqs
        self._max_loras = max_loras

    def add(self, sequence: Sequence) -> None:
        """Put a new sequence at the end of the queue."""
        self._waiting.append(sequence)

    def admit(self) -> list[Sequence]:
        """Move what may run from waiting to running, in order but for deferred adapters; returns what was moved."""
        admitted: list[Sequence] = []
        passed: deque[Sequence] = deque()
        adapters = self._running_adapters()
        while self._waiting and len(self.running) < self._max_num_seqs:
            sequence = self._waiting.popleft()
            if self._deferred(sequence, adapters):
                passed.append(sequence)
                continue
            if sequence.lora is not None:
                adapters.add(sequence.lora.id)
            self.running.append(sequence)
            admitted.append(sequence)
        self._waiting.extendleft(reversed(passed))
        return admitted

    def finish(self, sequence: Sequence) -> None:
        """Take an ended sequence off the running set."""
        self.running.remove(sequence)

    def abort(self, request: str) -> int:
        """Drop every sequence of a request, wherever it is; returns how many there were."""
        before = len(self.running) + len(self._waiting)
        self.running = [sequence for sequence in self.running if sequence.request != request]
        self._waiting = deque(sequence for sequence in self._waiting if sequence.request != request)
        return before - len(self.running) - len(self._waiting)

    def load(self) -> Load:
        """Count the queues."""
        adapters = self._running_adapters()
        deferred = sum(self._deferred(sequence, adapters) for sequence in self._waiting)
        names = dict.fromkeys(sequence.lora.name for sequence in self if sequence.lora is not None)
        return Load(len(self.running), len(self._waiting) - deferred, deferred, tuple(names))

    def __iter__(self) -> Iterator[Sequence]:
        yield from self.running
        yield from self._waiting

    def _running_adapters(self) -> set[int]:
        return {sequence.lora.id for sequence in self.running if sequence.lora is not None}

    def _deferred(self, sequence: Sequence, adapters: set[int]) -> bool:
        return sequence.lora is not None and sequence.lora.id not in adapters and len(adapters) >= self._max_loras
