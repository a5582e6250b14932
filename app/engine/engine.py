"""The engine as the HTTP side sees it: open it, generate, load adapters, look at residency.

Opening starts the loop's thread; closing stops it. A generation is a context: leaving it, for whatever reason, frees
its sequences at the loop's next round.
"""

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from collections.abc import Sequence as Tokens
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from app.engine.core import Abort, Call, Delivery, EngineCore, Hooks, Stop
from app.engine.errors import EngineDead, EngineError
from app.engine.faults import FaultBoard
from app.engine.llama import Llama
from app.engine.lora import Adapter, LoraRequest, load_adapter
from app.engine.metrics import EngineMetrics
from app.engine.options import EngineOptions
from app.engine.residency import Residency, Snapshot
from app.engine.sampling import Sampler, SamplingParams
from app.engine.sequence import Delta, Event, Sequence
from app.engine.text import TextStream
from app.engine.tokenizer import Tokenizer
from app.engine.weights import ModelConfig, read_config, read_generation_defaults, read_model_tensors

T = TypeVar("T")


class Engine:
    """A loaded model with its loop; made by `open_engine`."""

    def __init__(
        self,
        options: EngineOptions,
        faults: FaultBoard,
        loop: asyncio.AbstractEventLoop,
        on_death: Callable[[], None],
    ) -> None:
        self.options = options
        self.config = read_config(options.model)
        self.defaults = read_generation_defaults(options.model)
        self.max_len = options.max_model_len or self.config.max_positions
        self.tokenizer = Tokenizer(options.model)
        self.metrics = EngineMetrics(model=options.served_model_name, max_loras=options.max_loras)
        self._end_ids = _end_ids(self.config, self.tokenizer, self.defaults.get("eos_token_id"))
        self._loop = loop
        self._residency = Residency(
            slots=options.max_loras,
            host=options.max_cpu_loras,
            load=lambda request: _load(request, self.config, faults, options.max_lora_rank),
        )
        self.core = EngineCore(
            options,
            Llama(self.config, read_model_tensors(options.model), max_len=self.max_len),
            self._residency,
            self.metrics,
            max_len=self.max_len,
            hooks=Hooks(latency=lambda: faults.latency, deliver=self._deliver, on_death=on_death),
        )
        self.metrics.watch(lambda: self.core.load, model=options.served_model_name)

    @property
    def residency(self) -> Snapshot:
        """Which adapters are resident now."""
        return self._residency.snapshot

    async def load(self, request: LoraRequest, *, reload: bool = False) -> None:
        """Read an adapter into host memory and a slot, between two steps; AdapterError when it cannot be."""
        await self._call(lambda: self._residency.ensure(request, reload=reload))

    @asynccontextmanager
    async def generate(
        self,
        prompts: Tokens[Tokens[int]],
        params: SamplingParams,
        lora: LoraRequest | None,
        *,
        n: int = 1,
    ) -> AsyncIterator[AsyncIterator[Delta]]:
        """Start `n` sequences for each prompt and yield their tokens as they come; raises EngineDead inside."""
        if self.core.dead:
            raise EngineDead
        request, events = uuid.uuid4().hex, asyncio.Queue[Event]()
        total = len(prompts) * n
        for index in range(total):
            child = params if params.seed is None else replace(params, seed=params.seed + index % n)
            self.core.submit(self._sequence(request, index, prompts[index // n], child, lora, events))
        try:
            yield _deltas(events, total)
        finally:
            self.core.submit(Abort(request))

    def _sequence(
        self,
        request: str,
        index: int,
        prompt: Tokens[int],
        params: SamplingParams,
        lora: LoraRequest | None,
        events: asyncio.Queue[Event],
    ) -> Sequence:
        sampler = Sampler(params, prompt, vocab=self.config.vocab, end_ids=self._end_ids)
        stream = TextStream(self.tokenizer, stop=params.stop, keep_stop=params.include_stop)
        return Sequence(
            request=request,
            index=index,
            prompt=prompt,
            params=params,
            lora=lora,
            emit=events.put_nowait,
            sampler=sampler,
            stream=stream,
            end_ids=frozenset(self._end_ids),
            main_end_id=self._end_ids[0] if self._end_ids else None,
        )

    async def _call(self, function: Callable[[], T]) -> T:
        answer: Future[T] = Future()
        self.core.submit(Call(function, answer))
        return await asyncio.wrap_future(answer)

    def _deliver(self, deliveries: Tokens[Delivery]) -> None:
        """Hand events from the loop's thread to the event loop, in one wake-up per step."""
        if deliveries and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_emit, deliveries)


@asynccontextmanager
async def open_engine(
    options: EngineOptions, faults: FaultBoard, on_death: Callable[[], None]
) -> AsyncIterator[Engine]:
    """Load the model and run its loop in a thread until the context ends; `on_death` is called from that thread."""
    loop = asyncio.get_running_loop()
    engine = await asyncio.to_thread(Engine, options, faults, loop, on_death)
    thread = threading.Thread(target=engine.core.run, name="engine-core", daemon=True)
    thread.start()
    try:
        yield engine
    finally:
        engine.core.submit(Stop())
        await asyncio.to_thread(thread.join)


def _emit(deliveries: Tokens[Delivery]) -> None:
    for sequence, event in deliveries:
        sequence.emit(event)


async def _deltas(events: asyncio.Queue[Event], total: int) -> AsyncIterator[Delta]:
    left = total
    while left:
        event = await events.get()
        if isinstance(event, EngineError):
            raise event
        yield event
        left -= event.finish is not None


def _load(request: LoraRequest, config: ModelConfig, faults: FaultBoard, max_rank: int) -> Adapter:
    faults.before_load(request.name)
    return load_adapter(request, config, max_rank=max_rank)


def _end_ids(config: ModelConfig, tokenizer: Tokenizer, generation: int | list[int] | None) -> tuple[int, ...]:
    """The model's end tokens, its own first: the tokenizer's, then those the configurations name."""
    extra = (generation,) if isinstance(generation, int) else tuple(generation or ())
    found = (tokenizer.eos_id, *config.eos_ids, *extra)
    return tuple(dict.fromkeys(token for token in found if token is not None))
