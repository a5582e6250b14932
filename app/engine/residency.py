"""Which adapters are resident: two LRU levels, slots (`max_loras`) over host memory (`max_cpu_loras`), as in vLLM.

Every use touches both levels, so their orders agree, and the slots hold just the most recently used of host memory: one
order is kept. A full host drops its least recently used entry; a new adapter is read before an old one is dropped, so a
failed load evicts nothing. Unloading a name never reaches this module: vLLM frees nothing then either.
Owned by the engine thread; `snapshot` is replaced as a whole and may be read from any thread.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from app.engine.lora import Adapter, LoraRequest


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Names in slots and in host memory, least recently used first, and the reads from disk so far."""

    slots: tuple[str, ...] = ()
    host: tuple[str, ...] = ()
    loads: int = 0


class Residency:
    """The two levels; `load` reads an adapter from its path."""

    def __init__(self, *, slots: int, host: int, load: Callable[[LoraRequest], Adapter]) -> None:
        self.snapshot = Snapshot()
        self._load = load
        self._slot_count = slots
        self._host_count = host
        self._host: OrderedDict[int, Adapter] = OrderedDict()

    def ensure(self, request: LoraRequest, *, reload: bool = False) -> Adapter:
        """Return the adapter, in host memory and in a slot, reading it from its path if it is not resident."""
        loads = self.snapshot.loads
        if reload or request.id not in self._host:
            self._admit(request)
            loads += 1
        self._host.move_to_end(request.id)
        names = tuple(adapter.name for adapter in self._host.values())
        self.snapshot = Snapshot(slots=names[-self._slot_count :], host=names, loads=loads)
        return self._host[request.id]

    def _admit(self, request: LoraRequest) -> None:
        adapter = self._load(request)
        self._host.pop(request.id, None)
        if len(self._host) >= self._host_count:
            self._host.popitem(last=False)
        self._host[request.id] = adapter
