"""What a replica holds: a mirror of vLLM's two LRU levels, because vLLM does not tell without our plugin.

Pure. As in vLLM, what is in a GPU slot is also in host memory, every use touches both levels, and a full level drops
its least recently used entry. `/v1/models` lists names, not residency, and unloading a name frees neither level.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from enum import IntEnum


class Level(IntEnum):
    """How near an adapter is to running, nearest highest."""

    ABSENT = 0
    HOST = 1
    GPU = 2


class Residency:
    """One replica's mirror; sizes are its `--max-loras` and `--max-cpu-loras`."""

    def __init__(self, *, max_loras: int, max_cpu_loras: int) -> None:
        self._gpu_size = max_loras
        self._host_size = max(max_loras, max_cpu_loras)
        self._gpu: OrderedDict[str, None] = OrderedDict()
        self._host: OrderedDict[str, None] = OrderedDict()

    def touch(self, adapter: str) -> None:
        """The adapter runs now: it is in both levels, most recently used."""
        if adapter not in self._host and len(self._host) >= self._host_size:
            dropped, _ = self._host.popitem(last=False)
            self._gpu.pop(dropped, None)
        if adapter not in self._gpu and len(self._gpu) >= self._gpu_size:
            self._gpu.popitem(last=False)
        for level in (self._host, self._gpu):
            level[adapter] = None
            level.move_to_end(adapter)

    def level(self, adapter: str) -> Level:
        """Where the adapter is."""
        if adapter in self._gpu:
            return Level.GPU
        return Level.HOST if adapter in self._host else Level.ABSENT

    def correct(self, gpu: Sequence[str], host: Sequence[str]) -> None:
        """The server's own word, least recently used first."""
        self._gpu = OrderedDict.fromkeys(gpu)
        self._host = OrderedDict.fromkeys(host)

    def drop(self, adapter: str) -> None:
        """The server has freed it."""
        self._gpu.pop(adapter, None)
        self._host.pop(adapter, None)

    def reset(self) -> None:
        """The replica has restarted: it holds nothing."""
        self._gpu.clear()
        self._host.clear()

    @property
    def gpu(self) -> tuple[str, ...]:
        """In GPU slots, least recently used first."""
        return tuple(self._gpu)

    @property
    def host(self) -> tuple[str, ...]:
        """In host memory, least recently used first."""
        return tuple(self._host)
