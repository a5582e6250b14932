"""What a worker really holds: read from its own adapter manager, by a method that `collective_rpc` can call by name."""

from __future__ import annotations

from typing import Any

METHOD = "tunegate_residency"


def residency(worker: Any) -> tuple[list[int], list[int]]:
    """Adapter numbers in GPU slots and in host memory, least recently used first."""
    manager = getattr(getattr(worker.model_runner, "lora_manager", None), "_adapter_manager", None)
    if manager is None:
        return [], []
    return _by_age(manager._active_adapters), _by_age(manager._registered_adapters)  # noqa: SLF001 - vLLM has no other way


def _by_age(cache: Any) -> list[int]:
    return [int(number) for number in cache.order]


def install() -> None:
    """Give vLLM's workers the method; safe to repeat."""
    from vllm.v1.worker.gpu_worker import Worker  # noqa: PLC0415 - only in vLLM's own processes

    if not hasattr(Worker, METHOD):
        setattr(Worker, METHOD, residency)
