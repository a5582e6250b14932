"""The engine loop: one thread that owns the model, the residency and the queues.

Everything reaches it through one inbox, so nothing inside needs a lock, and adapter loads are serialised with decode
steps: a cold load stalls every running sequence, as in vLLM. Each round takes what came in, admits what may run, and
makes one token for every sequence that is due. An error in a step is the end of the engine (vLLM's `EngineDeadError`);
an error in a called function goes back to its caller.
"""

import logging
import queue
import time
from collections.abc import Callable
from collections.abc import Sequence as List
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from app.engine.errors import CallFailed, EngineDead, EngineError
from app.engine.llama import Chunk, KVCache, Llama
from app.engine.lora import Adapter
from app.engine.metrics import EngineMetrics
from app.engine.options import EngineOptions, Latency
from app.engine.residency import Residency
from app.engine.scheduler import Load, Scheduler
from app.engine.sequence import Event, Sequence

_log = logging.getLogger(__name__)
Delivery = tuple[Sequence, Event]


@dataclass(frozen=True, slots=True)
class Abort:
    """Drop a request."""

    request: str


@dataclass(frozen=True, slots=True)
class Call:
    """Run a function between two steps and answer through the future."""

    function: Callable[[], Any]
    answer: "Future[Any]"


@dataclass(frozen=True, slots=True)
class Stop:
    """End the loop."""


Message = Sequence | Abort | Call | Stop


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the loop asks and tells its surroundings; all are called from its thread."""

    latency: Callable[[], Latency]
    deliver: Callable[[List[Delivery]], None]
    on_death: Callable[[], None]


class EngineCore:
    """The loop's state. `submit` may be called from any thread, everything else from the loop's own."""

    def __init__(
        self,
        options: EngineOptions,
        model: Llama,
        residency: Residency,
        metrics: EngineMetrics,
        *,
        max_len: int,
        hooks: Hooks,
    ) -> None:
        self.dead = False
        self.load = Load()
        self._model = model
        self._residency = residency
        self._metrics = metrics
        self._hooks = hooks
        self._max_len = max_len
        self._max_batched = options.max_num_batched_tokens
        self._scheduler = Scheduler(max_num_seqs=options.max_num_seqs, max_loras=options.max_loras)
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def submit(self, message: Message) -> None:
        """Hand the loop something to do."""
        self._inbox.put(message)

    def run(self) -> None:
        """Loop until told to stop; after a failed step everything is answered with EngineDead."""
        while True:
            try:
                if not self._take_messages():
                    return
                if not self.dead:
                    self._round()
            except Exception:  # noqa: BLE001  whatever breaks a step ends the engine, as in vLLM; the trace goes to the log
                _log.exception("engine_died")
                self.dead = True
                self._hooks.on_death()
            if self.dead:
                self._fail_all()

    def _fail_all(self) -> None:
        doomed = list(self._scheduler)
        for sequence in doomed:
            self._scheduler.abort(sequence.request)
        self._metrics.ended("error", len(doomed))
        self.load = self._scheduler.load()
        self._hooks.deliver([(sequence, EngineDead()) for sequence in doomed])

    def _take_messages(self) -> bool:
        """Handle all that is in the inbox, waiting for it only as long as no sequence is due; False to stop."""
        timeout = self._idle_time()
        while True:
            try:
                message = self._inbox.get(timeout=timeout) if timeout != 0 else self._inbox.get_nowait()
            except queue.Empty:
                return True
            if isinstance(message, Stop):
                return False
            self._handle(message)
            timeout = 0

    def _idle_time(self) -> float | None:
        """Seconds until a running sequence is due; None for never."""
        if not self._scheduler.running:
            return None
        return max(0.0, min(sequence.due for sequence in self._scheduler.running) - time.monotonic())

    def _handle(self, message: Sequence | Abort | Call) -> None:
        if isinstance(message, Sequence):
            self._scheduler.add(message)
        elif isinstance(message, Abort):
            self._metrics.ended("abort", self._scheduler.abort(message.request))
            self.load = self._scheduler.load()
        elif self.dead:
            message.answer.set_exception(EngineDead())
        else:
            _answer(message)

    def _round(self) -> None:
        now, latency = time.monotonic(), self._hooks.latency()
        self._admit(latency)
        batch = self._due(now)
        if batch:
            self._metrics.adapters(self.load.adapters)
            self._step(batch, latency)
            self._admit(latency)

    def _admit(self, latency: Latency) -> None:
        """Let in what may run; also after a step, so that a freed seat is taken before the loop sleeps."""
        for sequence in self._scheduler.admit():
            sequence.cache = KVCache(self._model.config, capacity=len(sequence.prompt) + 32)
            sequence.due = time.monotonic() + latency.first_token_s if latency.first_token_s else 0.0
        self.load = self._scheduler.load()

    def _due(self, now: float) -> list[Sequence]:
        """Sequences to step, those of one adapter together; new prompts only up to the batch's token limit."""
        due = sorted((s for s in self._scheduler.running if s.due <= now), key=lambda s: s.generated == 0)
        batch, tokens = list[Sequence](), 0
        for sequence in due:
            tokens += len(sequence.next_tokens)
            if batch and tokens > self._max_batched:
                break
            batch.append(sequence)
        return sorted(batch, key=lambda s: 0 if s.lora is None else s.lora.id)

    def _step(self, batch: list[Sequence], latency: Latency) -> None:
        adapters = self._adapters(batch)
        chunks = [
            Chunk(s.next_tokens, s.cache, None if s.lora is None else adapters[s.lora.id])
            for s in batch
            if s.cache is not None
        ]
        logits = self._model.step(chunks)
        now, deliveries = time.monotonic(), list[Delivery]()
        for row, (sequence, chunk) in enumerate(zip(batch, chunks, strict=True)):
            delta = sequence.advance(logits[row], room=self._max_len - chunk.cache.length - 1)
            self._metrics.token(sequence, delta, now)
            sequence.stepped, sequence.due = now, now + latency.per_token_s
            if delta.finish is not None:
                self._scheduler.finish(sequence)
            deliveries.append((sequence, delta))
        self._hooks.deliver(deliveries)

    def _adapters(self, batch: list[Sequence]) -> dict[int, Adapter]:
        wanted = {s.lora.id: s.lora for s in batch if s.lora is not None}
        return {key: self._residency.ensure(request) for key, request in wanted.items()}


def _answer(call: Call) -> None:
    try:
        call.answer.set_result(call.function())
    except EngineError as exc:
        call.answer.set_exception(exc)
    except Exception as exc:  # noqa: BLE001  a broken adapter can fail anyhow; its caller hears it, the loop goes on
        call.answer.set_exception(CallFailed(str(exc)))
